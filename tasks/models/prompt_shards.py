"""Prompts of a file cut into shards beside the output, and the plan that says how every shard is completed.

The folder OUT.parts holds plan.json, prompts-NNNNN.parquet and, as they are made, completions-NNNNN.parquet. A shard's
completions follow from the plan and its rows alone, so that any process that sees the folder may make them, in any order.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from mlflow import MlflowClient
from pydantic import BaseModel, ConfigDict, ValidationError

from configs.errors import UserError
from configs.generation import BatchSettings
from configs.schema import DataSettings
from gpt2core.generation.completion import encode_prompt
from gpt2core.machine.durable import publish_folder
from gpt2core.machine.lock import locked
from gpt2core.text.documents import find_files, rows_of
from gpt2core.text.pieces import Tally
from gpt2core.text.text_column import NAMES
from gpt2core.text.tokenizer import Tokenizer, load_tokenizer
from tasks.registry.lookup import URI, content_hash, find_version
from tasks.runs.models import resolve_model
from tasks.terminal.console import say, warn

PROMPT_NAMES = ("prompt", "question", "instruction", "input", *NAMES)
PLAN = "plan.json"
PLAN_KEY = b"gpt2flow.generate"
"""Under which a finished file holds its plan."""


class GenerationPlan(BaseModel):
    """All that completions follow from."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    prompts: dict[str, str]
    """Hash of each file of prompts."""
    reference: str | None
    """The model as it was asked for."""
    model: str
    """What that was when the work began: a version of the registry, or a folder."""
    weights: str
    """Hash of the model's content."""
    settings: BatchSettings
    shards: int = 0

    @property
    def model_version(self) -> str:
        """models:/NAME/VERSION, or a folder's name with the hash of its weights."""
        return self.model if URI.fullmatch(self.model) else f"{Path(self.model).name}@{self.weights[:12]}"


def parts_of(out: Path) -> Path:
    """Where shards lie until the file is there."""
    return out.with_name(out.name + ".parts")


@contextmanager
def writing_alone(out: Path) -> Iterator[None]:
    """Nobody else writes this output; raises UserError where somebody does."""
    lock = out.with_name(f".{out.name}.lock")
    try:
        with locked(lock, wait=False):
            yield
            lock.unlink(missing_ok=True)
    except BlockingIOError:
        raise UserError(f"{out} is being written by another gpt2flow generate: wait for it, or choose another name.") from None


def plan_shards(prompts: str, out: Path, reference: str | None, settings: BatchSettings) -> GenerationPlan:
    """The plan of this output: the one that was begun with the same request, or a new one with the prompts cut into shards.

    Raises UserError for prompts that cannot be read or completed, and for an output that belongs to another request.
    """
    before = _plan_before(out)
    model = before.model if before and before.reference == reference else _pin(reference)
    folder = resolve_model(model)
    data = DataSettings(source=[prompts], text_column=settings.text_column, delimiter=settings.delimiter)
    files = find_files(data)
    hashes = {file.source: file.sha256 for file in files}
    plan = GenerationPlan(prompts=hashes, reference=reference, model=model, weights=content_hash(folder), settings=settings)
    if before is None:
        tokenizer, tally = load_tokenizer(folder), Tally()
        rows = (row for file in files for row in _named(rows_of(file, data, tally, PROMPT_NAMES)))
        plan = _cut(rows, tokenizer, plan, parts_of(out))
        for note in tally.notes:
            say("prompts", note)
        for warning in tally.warnings:
            warn("prompts", _as_option(warning))
        return plan
    if differing := _differing(before, plan):
        raise UserError(
            f"{out} was begun with other {differing}: give what it was begun with, remove {out} and {parts_of(out)}, or "
            "choose another name."
        )
    return before


def read_plan(parts: Path) -> GenerationPlan:
    """The plan in a folder of shards; raises UserError where it is damaged."""
    try:
        return GenerationPlan.model_validate_json((parts / PLAN).read_bytes())
    except ValidationError:
        raise UserError(f"{parts / PLAN} is damaged: remove {parts}, then start again.") from None


def plan_in(out: Path) -> GenerationPlan | None:
    """The plan of a finished output; None where there is no file. Raises UserError for a file of somebody else."""
    if not out.exists():
        return None
    try:
        return GenerationPlan.model_validate_json((pq.read_schema(out).metadata or {})[PLAN_KEY])
    except (pa.ArrowException, OSError, KeyError, ValidationError):
        raise UserError(f"{out} exists and was not written by gpt2flow generate: choose another name.") from None


def prompts_of_shard(parts: Path, number: int) -> list[str]:
    """The prompts of a shard."""
    return [str(prompt) for prompt in read_table(parts / f"prompts-{number:05}.parquet")["prompt"].to_pylist()]


def read_table(path: Path) -> pa.Table:
    """A shard's table; raises UserError where it is damaged."""
    try:
        return pq.read_table(path)
    except (pa.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0][:100]
        raise UserError(f"{path} cannot be read ({reason}): remove the folder {path.parent}, then start again.") from None


def _plan_before(out: Path) -> GenerationPlan | None:
    return plan_in(out) or (read_plan(parts_of(out)) if (parts_of(out) / PLAN).exists() else None)


def _pin(reference: str | None) -> str:
    """A name that stays the same model: the version that an alias stands for now, or a folder."""
    match = URI.fullmatch(reference or "")
    if match is None:
        return str(resolve_model(reference).absolute())
    return find_version(MlflowClient(), match[1], match[2] or match[3]).uri


def _differing(before: GenerationPlan, now: GenerationPlan) -> str:
    """What differs between two requests, in words; empty where nothing does."""
    own = before.settings.model_dump()
    names = [name for name, value in now.settings.model_dump().items() if value != own[name]]
    if before.prompts != now.prompts:
        names.insert(0, "prompts")
    if (before.model, before.weights) != (now.model, now.weights):
        names.insert(0, f"model ({before.model_version}, now {now.model_version})")
    return ", ".join(names)


def _cut(rows: Iterator[str], tokenizer: Tokenizer, plan: GenerationPlan, parts: Path) -> GenerationPlan:
    """Write the shards of prompts and then the plan; what an interrupted attempt has left is replaced."""
    shutil.rmtree(parts, ignore_errors=True)
    size, shards = plan.settings.shard_rows, 0
    with publish_folder(parts) as folder:
        while shard := list(islice(rows, size)):
            for row, prompt in enumerate(shard, start=shards * size + 1):
                _require_encodable(tokenizer, plan.settings.prefix + prompt, row)
            pq.write_table(pa.table({"prompt": pa.array(shard, pa.string())}), folder / f"prompts-{shards:05}.parquet")
            shards += 1
        if not shards:
            raise UserError(f"There is no prompt in {', '.join(plan.prompts)}: give a table with a prompt in each row.")
        plan = plan.model_copy(update={"shards": shards})
        (folder / PLAN).write_text(plan.model_dump_json(indent=1), encoding="utf-8")
    return plan


def _require_encodable(tokenizer: Tokenizer, prompt: str, row: int) -> None:
    try:
        encode_prompt(tokenizer, prompt)
    except UserError as error:
        raise UserError(f"Prompt {row}: {error}") from None


def _named(rows: Iterator[str]) -> Iterator[str]:
    """The same rows; what is wrong with them names the options of this command."""
    try:
        yield from rows
    except UserError as error:
        raise UserError(_as_option(str(error))) from None


def _as_option(sentence: str) -> str:
    return sentence.replace("data.text_column", "--text_column").replace("data.delimiter", "--delimiter")
