"""Shards of prompts completed, each a task of its own, and joined to one Parquet file when all are there."""

from __future__ import annotations

import math
import shutil
from functools import lru_cache
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from prefect import task
from prefect.cache_policies import NO_CACHE

from gpt2core.generation.completion import Completion, complete
from gpt2core.generation.inference import for_inference
from gpt2core.machine.devices import choose_device, choose_threads
from gpt2core.machine.durable import fsync, named_write_errors
from gpt2core.model.gpt2 import GPT2
from gpt2core.text.tokenizer import Tokenizer, load_tokenizer
from gpt2core.weights.loading import load_model
from tasks.models.prompt_shards import (
    PLAN_KEY,
    GenerationPlan,
    parts_of,
    plan_in,
    prompts_of_shard,
    read_plan,
    read_table,
)
from tasks.runs.models import resolve_model
from tasks.terminal.console import say

COLUMNS = pa.schema(
    {
        "row": pa.int64(),
        "prompt": pa.string(),
        "sample": pa.int32(),
        "completion": pa.string(),
        "tokens": pa.int32(),
        "log_probability": pa.float64(),
        "ending": pa.string(),
        "model_version": pa.string(),
        "seed": pa.int64(),
    }
)
"""`row` counts from 0; `log_probability` is the sum over the completion's tokens, in nats, before temperature and filters."""


@task(task_run_name="complete_shard_{number}", cache_policy=NO_CACHE, persist_result=False)
def complete_shard(parts: Path, number: int) -> None:
    """Complete a shard's prompts, on any machine that sees the folder; one that is completed already is left as it is."""
    target = _completions(parts, number)
    if target.exists():
        return
    plan, prompts = read_plan(parts), prompts_of_shard(parts, number)
    settings = plan.settings.model_copy(update={"log_probabilities": True})
    first = number * settings.shard_rows
    seeds = [(settings.seed + row) % 2**63 for row in range(first, first + len(prompts))]
    model, tokenizer = _load(plan.model, settings.weights)
    done = list(complete(model, tokenizer, prompts, settings, seeds))
    rows = [
        _row(
            first + place // settings.samples, prompts[place // settings.samples], each, plan, seeds[place // settings.samples]
        )
        for place, each in enumerate(done)
    ]
    temporary = target.with_name(target.name + ".tmp")
    with named_write_errors(target):
        pq.write_table(pa.Table.from_pylist(rows, COLUMNS), temporary)
        _publish(temporary, target)
    say("shard", f"{number + 1:,} of {plan.shards:,} completed")


def join_shards(out: Path, plan: GenerationPlan) -> int:
    """Join the shards' completions to the file `out`, remove them, and return the number of rows; again it changes nothing."""
    parts = parts_of(out)
    if plan_in(out) is None:
        temporary = out.with_name(out.name + ".tmp")
        with named_write_errors(out):
            schema = COLUMNS.with_metadata({PLAN_KEY: plan.model_dump_json().encode()})
            with pq.ParquetWriter(temporary, schema) as writer:
                for number in range(plan.shards):
                    writer.write_table(read_table(_completions(parts, number)).cast(schema))
            _publish(temporary, out)
    shutil.rmtree(parts, ignore_errors=True)
    return int(pq.read_metadata(out).num_rows)


def _completions(parts: Path, number: int) -> Path:
    return parts / f"completions-{number:05}.parquet"


def _row(row: int, prompt: str, done: Completion, plan: GenerationPlan, seed: int) -> dict[str, object]:
    return {
        "row": row,
        "prompt": prompt,
        "sample": done.sample,
        "completion": done.text,
        "tokens": len(done.tokens),
        "log_probability": math.fsum(done.log_probabilities),
        "ending": done.ending,
        "model_version": plan.model_version,
        "seed": seed,
    }


def _publish(temporary: Path, target: Path) -> None:
    fsync(temporary)
    temporary.replace(target)
    fsync(target.parent)


@lru_cache(maxsize=1)
def _load(reference: str, weights: str) -> tuple[GPT2, Tokenizer]:
    """The model, kept from one shard to the next."""
    folder = resolve_model(reference)
    model = load_model(folder).to(choose_device("auto"))
    choose_threads(model.config.n_embd)
    return for_inference(model, weights), load_tokenizer(folder)  # type: ignore[arg-type]
