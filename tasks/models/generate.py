"""Many prompts of a file completed shard by shard: what is done stays done, and the rows do not depend on how they are cut.

`OUT.HASH.parts/` holds plan.json, prompts-N.parquet and, once a shard is finished, completions-N.parquet; HASH is of the
prompts, the model and the settings, so other work never mixes with it. The finished OUT carries the hash, and the folder goes.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import xxhash
from mlflow import MlflowClient
from prefect import task
from prefect.cache_policies import NO_CACHE

from configs.errors import UserError
from configs.schema import CompletionSettings, DataSettings
from gpt2core.generation.completion import Completion
from gpt2core.machine.durable import fsync, named_write_errors, publish_folder, write_json
from gpt2core.text.documents import find_files, pieces_of
from gpt2core.text.pieces import Tally
from tasks.models.sample import Writer, read_prompts
from tasks.registry.lookup import URI, content_hash, find_version
from tasks.runs.models import resolve_model
from tasks.terminal.console import say, warn

TABLES = {".csv", ".tsv", ".jsonl", ".ndjson", ".json", ".parquet", ".arrow"}
PLAN = "plan.json"
HASH = b"gpt2flow.plan"
"""Key of the hash in the metadata of the finished file."""
COLUMNS = pa.schema(
    [
        ("row", pa.int64()),  # of the prompts, from 0 on
        ("sample", pa.int32()),
        ("prompt", pa.string()),
        ("completion", pa.string()),
        ("tokens", pa.int32()),
        ("log_probability", pa.float64()),  # of all tokens, in nats
        ("ending", pa.string()),
        ("model", pa.string()),
        ("seed", pa.int64()),
    ]
)


@dataclass(frozen=True)
class GenerationPlan:
    """What is to be done; everything large lies in `parts`."""

    output: Path
    parts: Path
    hash: str
    model: str
    """As a person calls it: models:/NAME/VERSION where the registry was asked."""
    folder: Path
    """Of the model's files."""
    settings: CompletionSettings
    shards: int


@task(cache_policy=NO_CACHE, persist_result=False)
def plan_generation(
    prompts: Path, output: Path, reference: str | None, settings: CompletionSettings, column: str | None, shard_rows: int
) -> GenerationPlan | None:
    """Cut the prompts into shards, unless that was done; None where `output` holds the result of just this already.

    Raises UserError for prompts or a model that are not there, and for an output that is something else.
    """
    model = _pinned(reference)
    folder = resolve_model(model)
    files = find_files(DataSettings(source=[str(prompts)]))
    decides = [*(file.sha256 for file in files), content_hash(folder), settings.model_dump_json(exclude={"batch_size"})]
    identity = xxhash.xxh3_128_hexdigest("\n".join([*decides, str(column), str(shard_rows)]).encode())
    if output.exists():
        if _hash_of(output) == identity:
            return None
        raise UserError(f"{output} is there already and is of other prompts, model or settings: choose another name.")
    parts = output.with_name(f"{output.name}.{identity[:8]}.parts")
    if not parts.exists():
        _write_prompts(prompts, column, parts, shard_rows)
    shards = len(list(parts.glob("prompts-*.parquet")))
    say("prompts", f"{sum(pq.read_metadata(file).num_rows for file in parts.glob('prompts-*.parquet')):,} in {shards:,} shards")
    return GenerationPlan(output, parts, identity, model or folder.name, folder, settings, shards)


@task(task_run_name="generate_shard_{number}", cache_policy=NO_CACHE, persist_result=False)
def generate_shard(plan: GenerationPlan, number: int) -> Path:
    """Complete the prompts of one shard, unless that was done: completions-N.parquet, there as a whole or not at all."""
    done = plan.parts / f"completions-{number:05}.parquet"
    if done.exists():
        return done
    table = pq.read_table(plan.parts / f"prompts-{number:05}.parquet")
    rows, prompts = table["row"].to_pylist(), table["prompt"].to_pylist()
    found = _writer(plan.folder, plan.settings.model_copy(update={"log_probabilities": True})).complete(prompts)
    made = [_row(plan, rows[i // plan.settings.samples], each) for i, each in enumerate(found)]
    _write(pa.Table.from_pylist(made, schema=COLUMNS), done)
    say("shard", f"{number + 1} of {plan.shards}: {len(made):,} completions")
    return done


@task(cache_policy=NO_CACHE, persist_result=False)
def join_shards(plan: GenerationPlan, shards: list[Path]) -> Path:
    """Write the output, a row group a shard, and remove the parts."""
    schema = COLUMNS.with_metadata({HASH: plan.hash.encode()})
    beside = plan.output.with_name(f"{plan.output.name}.tmp")
    with named_write_errors(plan.output):
        with pq.ParquetWriter(beside, schema, compression="zstd") as writer:
            for shard in shards:
                writer.write_table(pq.read_table(shard).cast(schema))
        fsync(beside)
        beside.replace(plan.output)
        fsync(plan.output.parent)
    shutil.rmtree(plan.parts)
    return plan.output


def _row(plan: GenerationPlan, row: int, done: Completion) -> dict[str, Any]:
    return {
        "row": row,
        "sample": done.sample,
        "prompt": done.prompt,
        "completion": done.text,
        "tokens": len(done.tokens),
        "log_probability": sum(done.log_probabilities),
        "ending": done.ending,
        "model": plan.model,
        "seed": plan.settings.seed,
    }


def _pinned(reference: str | None) -> str | None:
    """A registry's alias as the version that carries it now, so that work that goes on later goes on with the same model."""
    match = URI.fullmatch(reference) if reference else None
    return find_version(MlflowClient(), match[1], match[2]).uri if match and match[2] else reference


def _hash_of(output: Path) -> str:
    try:
        return str((pq.read_schema(output).metadata or {}).get(HASH, b"").decode())
    except (OSError, pa.ArrowException):
        return ""


def _write_prompts(prompts: Path, column: str | None, parts: Path, shard_rows: int) -> None:
    rows = enumerate(_rows_of(prompts, column))
    with publish_folder(parts) as folder:
        number = 0
        while part := list(islice(rows, shard_rows)):
            table = pa.table({"row": [row for row, _ in part], "prompt": [text for _, text in part]})
            pq.write_table(table, folder / f"prompts-{number:05}.parquet")
            number += 1
        write_json(folder / PLAN, {"prompts": str(prompts), "shards": number})


def _rows_of(prompts: Path, column: str | None) -> Iterator[str]:
    """A prompt a row of a table, or a line of a text; what was guessed of a table is said."""
    if prompts.suffix.lower() not in TABLES:
        yield from read_prompts([], prompts)
        return
    tally, settings = Tally(), DataSettings(source=[str(prompts)], text_column=column)
    held: list[str] = []
    for file in find_files(settings):
        for piece in pieces_of(file, settings, tally):
            held.append(piece.text)
            if piece.last:
                yield "".join(held)
                held = []
    for note in tally.notes:
        say("read", note)
    for warning in tally.warnings:
        warn("read", warning)


@lru_cache(maxsize=1)
def _loaded(folder: Path, settings_json: str) -> Writer:
    return Writer(folder, CompletionSettings.model_validate_json(settings_json))


def _writer(folder: Path, settings: CompletionSettings) -> Writer:
    """One a process, however many shards it completes."""
    return _loaded(folder, settings.model_dump_json())


def _write(table: pa.Table, target: Path) -> None:
    beside = target.with_name(f"{target.name}.{os.getpid()}.tmp")
    with named_write_errors(target):
        pq.write_table(table, beside)
        fsync(beside)
        beside.replace(target)
