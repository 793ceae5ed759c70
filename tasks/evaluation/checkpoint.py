"""Evaluating a run's checkpoint outside of the process that trains: the figures come back in a file of the run's folder.

evaluations/step-N.row   the row of figures, with the checkpoint and the settings that it is of
evaluations/step-N.lock  held while a process evaluates the step, so that two never do
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import torch

from configs.errors import UserError
from gpt2core.checkpoints.checkpoint import Checkpoint, find_damage, recorded_hashes
from gpt2core.machine.devices import choose_device, choose_threads
from gpt2core.machine.dtypes import choose_dtype
from gpt2core.machine.durable import write_json
from gpt2core.machine.lock import is_held, locked
from gpt2core.model.gpt2 import GPT2
from gpt2core.store.document_stream import split_of_store
from gpt2core.store.token_store import open_store
from gpt2core.text.tokenizer import load_tokenizer
from gpt2core.weights.loading import load_model
from tasks.evaluation.copied_passages import CopySearch
from tasks.evaluation.evaluate_step import Subject, evaluate_step
from tasks.runs.run_folder import RunFolder
from tasks.workspace.folders import Workspace

EvaluationRow = dict[str, float]


def leave_row(folder: RunFolder, step: int) -> None:
    """Evaluate the run's checkpoint of this step and write its row, unless that is there or the run has it already.

    While another process does so this one waits. Raises UserError where the checkpoint is missing or damaged.
    """
    with locked(_file(folder, step, "lock")):
        if read_row(folder, step) is None and step not in {row["step"] for row in folder.evaluations.rows()}:
            of = identity(folder, step)  # first: the settings may change when a run is resumed meanwhile
            write_json(_file(folder, step, "row"), {"of": of, "row": evaluate_saved_step(folder, step)})


def read_row(folder: RunFolder, step: int) -> EvaluationRow | None:
    """The row that a process has left, if it is of the checkpoint and the settings that are there now."""
    try:
        found = json.loads(_file(folder, step, "row").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    row: EvaluationRow = found["row"]
    return row if found["of"] == identity(folder, step) else None


def take_row(folder: RunFolder, step: int) -> EvaluationRow | None:
    """As `read_row`; what was only there to hand the row over is removed."""
    row = read_row(folder, step)
    if row is not None:
        for kind in ("row", "lock", "log"):
            _file(folder, step, kind).unlink(missing_ok=True)
    return row


def is_under_way(folder: RunFolder, step: int) -> bool:
    """Whether a process evaluates the step now, here or on another machine that sees the folder."""
    return is_held(_file(folder, step, "lock"))


def steps_in_hand(folder: RunFolder) -> set[int]:
    """Steps that are evaluated now, or whose row waits to be taken."""
    locked = {_step_of(file) for file in folder.reports.glob("step-*.lock") if is_held(file)}
    return locked | {_step_of(file) for file in folder.reports.glob("step-*.row")}  # looked for last: it comes before unlocking


def identity(folder: RunFolder, step: int) -> str:
    """Names the step's checkpoint, bit for bit, and the settings that it is evaluated with."""
    settings = folder.record.config.evaluate.model_dump(exclude={"where"})
    hashes = recorded_hashes(Checkpoint(folder.checkpoint_path(step), step))
    return hashlib.sha256(json.dumps([folder.id, step, hashes, settings], sort_keys=True).encode()).hexdigest()


def evaluate_saved_step(folder: RunFolder, step: int) -> EvaluationRow:
    """Evaluate the run's checkpoint of this step as training itself would, on the same device in the same numbers."""
    path = folder.checkpoint_path(step)
    if damage := find_damage(Checkpoint(path, step), folder.id):
        raise UserError(f"Checkpoint {path} cannot be evaluated: {damage}.")
    record, tokenizer = folder.record, load_tokenizer(path)
    config = record.config
    device = choose_device(config.train.device)

    def load(dtype: torch.dtype) -> GPT2:
        model = load_model(path, device=device, dtype=dtype)
        model.separator = tokenizer.end_of_text if config.data.mask_documents else None
        return model

    model = load(torch.float32)
    choose_threads(model.config.n_embd)
    dtype = choose_dtype(config.train.dtype, device, model.config.n_embd)
    computing = model if dtype is torch.float32 else load(dtype)
    store = open_store(Workspace.current().stores / record.store, verify=False)
    copies = CopySearch(store, tokenizer) if config.evaluate.copied_tokens else None
    return evaluate_step(Subject(folder, config, step, model, computing, tokenizer, split_of_store(store, tokenizer), copies))


def _file(folder: RunFolder, step: int, kind: str) -> Path:
    return folder.reports / f"step-{step:08d}.{kind}"


def _step_of(file: Path) -> int:
    return int(file.stem.removeprefix("step-"))
