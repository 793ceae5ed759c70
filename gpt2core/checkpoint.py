"""Checkpoints: a folder each, complete or absent, verified before it is trusted, no pickle inside.

`step-00000500/` holds config.json and model.safetensors (so it loads as a model by itself), tokenizer.json,
optimizer.safetensors, state.json, and manifest.json with a hash of every other file.
"""

from __future__ import annotations

import json
import platform
import shutil
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from configs.errors import UserError
from gpt2core.durable import file_hash, publish_folder, write_json
from gpt2core.tokenizer import Tokenizer
from gpt2core.trainer import Trainer
from gpt2core.weights import save_model, save_tensors

SCHEMA_VERSION = 1


@dataclass(frozen=True)
class Checkpoint:
    """A finished checkpoint folder."""

    path: Path
    step: int


def save_checkpoint(folder: Path, trainer: Trainer, tokenizer: Tokenizer, state: dict[str, Any]) -> Checkpoint:
    """Write `folder/step-N` for the trainer's current step; `state` is kept beside the step in state.json.

    An existing checkpoint of that step is left as it is if it verifies. Raises UserError where the disk is full.
    """
    target = folder / f"step-{trainer.step:08d}"
    checkpoint = Checkpoint(target, trainer.step)
    if target.exists():
        if not find_damage(checkpoint):
            return checkpoint
        shutil.rmtree(target)
    with publish_folder(target) as temporary:
        save_model(trainer.model, temporary, end_of_text=tokenizer.end_of_text)
        tokenizer.save(temporary)
        save_tensors(_optimizer_tensors(trainer), temporary / "optimizer.safetensors")
        write_json(temporary / "state.json", {"step": trainer.step, "versions": _versions(), **state})
        hashes = {path.name: file_hash(path) for path in sorted(temporary.iterdir())}
        write_json(temporary / "manifest.json", {"schema_version": SCHEMA_VERSION, "files": hashes})
    return checkpoint


def restore(trainer: Trainer, checkpoint: Checkpoint) -> None:
    """Fill the trainer's weights, moments and step from a verified checkpoint; raises UserError if it does not fit."""
    tensors = load_file(checkpoint.path / "optimizer.safetensors", device=str(trainer.model.wte.weight.device))
    weights = load_file(checkpoint.path / "model.safetensors", device=str(trainer.model.wte.weight.device))
    try:
        trainer.model.load_state_dict({name.removeprefix("transformer."): weight for name, weight in weights.items()})
        for name, parameter in trainer.model.named_parameters():
            trainer.optimizer.state[parameter] = {
                "step": torch.tensor(float(checkpoint.step), device=parameter.device),
                "exp_avg": tensors[f"exp_avg.{name}"],
                "exp_avg_sq": tensors[f"exp_avg_sq.{name}"],
            }
    except (RuntimeError, KeyError) as error:
        raise UserError(f"{checkpoint.path} does not fit this model ({error}): choose another train run name.") from error
    trainer.step = checkpoint.step


def find_checkpoints(folder: Path) -> list[Checkpoint]:
    """All finished checkpoints, oldest first."""
    steps = ((path, path.name.removeprefix("step-")) for path in folder.glob("step-*") if path.is_dir())
    return sorted((Checkpoint(path, int(step)) for path, step in steps if step.isdigit()), key=lambda c: c.step)


def newest_valid(folder: Path) -> tuple[Checkpoint | None, list[str]]:
    """The newest checkpoint that verifies, and a sentence for each newer one that did not."""
    warnings: list[str] = []
    for checkpoint in reversed(find_checkpoints(folder)):
        damage = find_damage(checkpoint)
        if not damage:
            return checkpoint, warnings
        warnings.append(f"Checkpoint {checkpoint.path} is not used: {damage}.")
    return None, warnings


def find_damage(checkpoint: Checkpoint) -> str:
    """What is wrong with a checkpoint, naming the file; empty if every file is as it was written."""
    try:
        manifest = json.loads((checkpoint.path / "manifest.json").read_text(encoding="utf-8"))
        schema_version, files = int(manifest["schema_version"]), dict(manifest["files"])
    except (OSError, ValueError, KeyError, TypeError):
        return "manifest.json is missing or unreadable"
    if schema_version > SCHEMA_VERSION:
        return f"it was written by a newer gpt2flow (format {schema_version}, known is {SCHEMA_VERSION})"
    for name, expected in files.items():
        path = checkpoint.path / name
        if not path.is_file():
            return f"{name} is missing"
        if file_hash(path) != expected:
            return f"{name} is not what was written"
    return ""


def prune(folder: Path, keep: int, protect: frozenset[int]) -> None:
    """Remove all but the newest `keep` checkpoints and the steps in `protect`, once the newest one verifies."""
    checkpoints = find_checkpoints(folder)
    if not checkpoints or find_damage(checkpoints[-1]):
        return
    for checkpoint in checkpoints[:-keep]:
        if checkpoint.step not in protect:
            shutil.rmtree(checkpoint.path)


def read_state(checkpoint: Checkpoint) -> dict[str, Any]:
    """state.json of a checkpoint."""
    state: dict[str, Any] = json.loads((checkpoint.path / "state.json").read_text(encoding="utf-8"))
    return state


def _optimizer_tensors(trainer: Trainer) -> dict[str, torch.Tensor]:
    tensors = {}
    for name, parameter in trainer.model.named_parameters():
        state = trainer.optimizer.state[parameter]
        tensors[f"exp_avg.{name}"] = state["exp_avg"]
        tensors[f"exp_avg_sq.{name}"] = state["exp_avg_sq"]
    return tensors


def _versions() -> dict[str, str]:
    packages = ("torch", "tokenizers", "numpy", "safetensors")
    return {"python": platform.python_version(), **{package: version(package) for package in packages}}
