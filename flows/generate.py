"""Batch generation: cut the prompts into shards, complete each, join them; a killed flow goes on with what is not done."""

from pathlib import Path
from typing import Any

from prefect import flow
from prefect.task_runners import ThreadPoolTaskRunner

from configs.schema import CompletionSettings
from tasks.models.generate import generate_shard, join_shards, plan_generation
from tasks.terminal.console import say

ONE_AT_A_TIME: ThreadPoolTaskRunner[Any] = ThreadPoolTaskRunner(max_workers=1)
"""A shard uses all cores; `generate.with_options(task_runner=...)` gives shards to a cluster that sees the same files."""


@flow(persist_result=False, task_runner=ONE_AT_A_TIME)  # type: ignore[arg-type]  # runners are invariant in their future
def generate(
    prompts: Path,
    output: Path,
    model: str | None,
    settings: CompletionSettings,
    column: str | None = None,
    shard_rows: int = 256,
) -> Path:
    """Complete every prompt of a file with the model; a row for each completion in a Parquet file, in the prompts' order."""
    plan = plan_generation(prompts, output, model, settings, column, shard_rows)
    if plan is None:
        say("generate", f"{output} is finished already: nothing to do")
        return output
    shards = generate_shard.map([plan] * plan.shards, list(range(plan.shards))).result()
    done = join_shards(plan, shards)
    say("generate", f"{done} is written")
    return done
