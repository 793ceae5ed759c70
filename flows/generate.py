"""Batch generation: prompts in shards, each shard a mapped task, one Parquet file at the end."""

from pathlib import Path

from prefect import flow
from prefect.futures import wait
from prefect.task_runners import ThreadPoolTaskRunner

from configs.generation import BatchSettings
from tasks.models.complete_shards import complete_shard, join_shards
from tasks.models.prompt_shards import parts_of, plan_in, plan_shards, writing_alone
from tasks.terminal.console import begin, say


@flow(task_runner=ThreadPoolTaskRunner(max_workers=1), persist_result=False)  # type: ignore[arg-type]  # invariant in its future
def generate(prompts: str, out: Path, model: str | None, settings: BatchSettings) -> Path:
    """Complete every prompt of a table into `out`. A shard uses all cores; on a cluster give the flow its task runner."""
    with writing_alone(out):
        begin("prompts", "reading, or finding what was begun")
        plan = plan_shards(prompts, out, model, settings)
        if plan_in(out) is None:
            futures = complete_shard.map(parts_of(out), list(range(plan.shards)))
            wait(futures)  # before an error is heard nobody may still be writing
            for future in futures:
                future.result()
        rows = join_shards(out, plan)
    say("completions", f"{rows:,} of {plan.model_version} in {out}")
    return out
