"""Batch generation: prompts in shards, each shard a mapped task, one Parquet file at the end."""

from pathlib import Path

from prefect import flow
from prefect.task_runners import ThreadPoolTaskRunner

from configs.cluster import HERE, ClusterSettings
from configs.generation import BatchSettings
from tasks.clusters.mapping import map_task
from tasks.models.complete_shards import complete_shard, join_shards
from tasks.models.prompt_shards import parts_of, plan_in, plan_shards, writing_alone
from tasks.terminal.console import begin, say


@flow(task_runner=ThreadPoolTaskRunner(max_workers=1), persist_result=False)  # type: ignore[arg-type]  # invariant in its future
def generate(prompts: str, out: Path, model: str | None, settings: BatchSettings, cluster: ClusterSettings = HERE) -> Path:
    """Complete every prompt of a table into `out`. A shard uses all cores of its machine."""
    with writing_alone(out):
        begin("prompts", "reading, or finding what was begun")
        plan = plan_shards(prompts, out, model, settings)
        if plan_in(out) is None:
            map_task(complete_shard, cluster, computes=True, parts=parts_of(out), number=list(range(plan.shards)))
        rows = join_shards(out, plan)
    say("completions", f"{rows:,} of {plan.model_version} in {out}")
    return out
