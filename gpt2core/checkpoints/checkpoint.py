"""Checkpoints: a folder each, complete or absent, verified before it is trusted, no pickle inside.

`step-00000500/` holds config.json and the weights (so it loads as a model by itself, see `gpt2core.checkpoints.weights`),
tokenizer.json, the optimizer's state (see `gpt2core.checkpoints.moments`), state.json, and manifest.json with a hash of every
other file.
"""

from __future__ import annotations

import platform
import shutil
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError

from configs.errors import UserError
from configs.schema import LoraSettings
from gpt2core.checkpoints.moments import OthersMoments, moments_file, read_moments
from gpt2core.checkpoints.state import CheckpointState
from gpt2core.checkpoints.weights import read_weights, write_weights
from gpt2core.machine.durable import file_hash, fsync, publish_folder, remove_folder
from gpt2core.machine.sealed_json import DamagedFileError, read_sealed, seal_of, write_sealed
from gpt2core.model.config import GPT2Config
from gpt2core.model.gpt2 import GPT2
from gpt2core.text.tokenizer import Tokenizer
from gpt2core.training.trainer import Trainer, TrainerState
from gpt2core.weights.loading import save_config, save_tensors
from gpt2core.weights.tensor_files import Readers

SCHEMA_VERSION = 1
MANIFEST = "manifest.json"


@dataclass(frozen=True)
class Checkpoint:
    """A finished checkpoint folder."""

    path: Path
    step: int


@dataclass(frozen=True)
class Snapshot:
    """Everything a checkpoint holds, as it was after an update."""

    training: TrainerState
    config: GPT2Config
    weights: dict[str, torch.Tensor]
    """What training changes."""
    moments: dict[str, torch.Tensor]
    """What this process keeps of the optimizer's state."""
    state: dict[str, Any]
    """What else is recorded, see `CheckpointState`."""
    frozen: dict[str, torch.Tensor] = field(default_factory=dict)
    """What it does not change; never copied."""
    lora: LoraSettings | None = None
    """What kind of adapters `weights` are, if they are adapters."""
    others: OthersMoments | None = None
    """What the other processes keep, where they share it out."""

    @property
    def step(self) -> int:
        """Updates made until then."""
        return self.training.step


def take_snapshot(trainer: Trainer, state: dict[str, Any], others: OthersMoments | None = None) -> Snapshot:
    """The trainer's present tensors themselves, not copied: they are good until its next update."""
    weights: dict[bool, dict[str, torch.Tensor]] = {True: {}, False: {}}
    for name, parameter in trainer.model.named_parameters():
        weights[parameter.requires_grad][name] = parameter.detach()
    lora = trainer.settings.lora if trainer.settings.adapts else None
    moments = trainer.optimizer.tensors()
    return Snapshot(trainer.state, trainer.model.config, weights[True], moments, state, weights[False], lora, others)


def save_checkpoint(folder: Path, trainer: Trainer, tokenizer: Tokenizer, state: dict[str, Any]) -> Checkpoint:
    """Write `folder/step-N` for the trainer's current step; `state` is kept beside the step in state.json.

    An existing checkpoint of that step is left as it is if it verifies. Raises UserError where the disk is full.
    """
    return write_checkpoint(folder, take_snapshot(trainer, state), tokenizer)


def write_checkpoint(folder: Path, snapshot: Snapshot, tokenizer: Tokenizer) -> Checkpoint:
    """As `save_checkpoint`, of a snapshot."""
    checkpoint = Checkpoint(folder / f"step-{snapshot.step:08d}", snapshot.step)
    with snapshot.others or nullcontext():
        if checkpoint.path.exists():
            if not find_damage(checkpoint):
                return checkpoint
            set_aside(checkpoint)
        with publish_folder(checkpoint.path) as temporary:
            hashes = _write_files(temporary, snapshot, tokenizer)
            if snapshot.others:
                hashes |= snapshot.others.move_into(temporary)
            write_checkpoint_manifest(temporary, hashes)
    return checkpoint


def _write_files(folder: Path, snapshot: Snapshot, tokenizer: Tokenizer) -> dict[str, str]:
    """What this process has of a checkpoint; each file's hash by its name."""
    moments_name = snapshot.others.own_file if snapshot.others else moments_file()
    with ThreadPoolExecutor() as pool:  # both large files at once: each waits for the disk, and the other one may not
        moments = pool.submit(save_tensors, snapshot.moments, folder / moments_name)
        write_weights(folder, snapshot.weights, snapshot.frozen, snapshot.lora)
        moments.result()
        save_config(snapshot.config, folder, end_of_text=tokenizer.end_of_text)
        tokenizer.save(folder)
        write_sealed(folder / "state.json", {**_as_json(snapshot.training), "versions": _versions(), **snapshot.state})
        files = sorted(folder.iterdir())
        return dict(zip((file.name for file in files), pool.map(file_hash, files), strict=True))


def write_checkpoint_manifest(folder: Path, hashes: dict[str, str]) -> None:
    """Write what `find_damage` compares the folder's files with."""
    write_sealed(folder / MANIFEST, {"schema_version": SCHEMA_VERSION, "files": hashes})


def restore(trainer: Trainer, checkpoint: Checkpoint) -> None:
    """Fill the trainer's weights, moments and state from a verified checkpoint; raises UserError if it does not fit."""
    trainer.hold_all_weights()
    try:
        _fill(trainer.model, read_weights(checkpoint.path))
        trainer.optimizer.load(read_moments(checkpoint.path, trainer.optimizer, trainer.model.wte.weight.device))
    except (RuntimeError, KeyError) as error:
        raise UserError(f"{checkpoint.path} does not fit this model ({error}): choose another train run name.") from error
    state = read_state(checkpoint)
    trainer.state = TrainerState(state.step, state.replaced, state.batch_cuts, state.whole_gradients)


def _fill(model: GPT2, weights: Readers) -> None:
    """One after the other, so that they are in memory once; raises RuntimeError where they are not those of the model."""
    if different := sorted(weights.keys() ^ model.state_dict().keys()):
        raise RuntimeError(f"only one of them has {different[0]}")
    for name, read in weights.items():
        model.load_state_dict({name: read()}, strict=False)


def find_checkpoints(folder: Path) -> list[Checkpoint]:
    """All finished checkpoints, oldest first."""
    steps = ((path, path.name.removeprefix("step-")) for path in folder.glob("step-*") if path.is_dir())
    return sorted((Checkpoint(path, int(step)) for path, step in steps if step.isdigit()), key=lambda c: c.step)


def newest_valid(folder: Path, run: str | None = None) -> tuple[Checkpoint | None, list[tuple[Checkpoint, str]]]:
    """The newest checkpoint that verifies (and belongs to `run`), and each newer one with what is wrong with it."""
    damaged: list[tuple[Checkpoint, str]] = []
    for checkpoint in reversed(find_checkpoints(folder)):
        damage = find_damage(checkpoint, run)
        if not damage:
            return checkpoint, damaged
        damaged.append((checkpoint, damage))
    return None, damaged


def find_damage(checkpoint: Checkpoint, run: str | None = None) -> str:
    """What is wrong with a checkpoint, naming the file; empty if every file is as it was written (by the run of that id)."""
    try:
        manifest = read_sealed(checkpoint.path / MANIFEST)
        schema_version, files = int(manifest["schema_version"]), dict(manifest["files"])
    except OSError:
        return f"{MANIFEST} is missing or unreadable"
    except (DamagedFileError, KeyError):
        return f"{MANIFEST} is not what was written"
    if schema_version > SCHEMA_VERSION:
        return f"it was written by a newer gpt2flow (format {schema_version}, known is {SCHEMA_VERSION})"
    for name, expected in files.items():
        path = checkpoint.path / name
        if not path.is_file():
            return f"{name} is missing"
        if file_hash(path) != expected:
            return f"{name} is not what was written"
    return _wrong_owner(checkpoint, run)


def recorded_hashes(checkpoint: Checkpoint) -> dict[str, str]:
    """The hash of each file as it was written; empty where the manifest is missing or damaged."""
    try:
        return dict(read_sealed(checkpoint.path / MANIFEST)["files"])
    except (OSError, DamagedFileError, KeyError):
        return {}


def identity_of(checkpoint: Checkpoint) -> str:
    """Hash that no other checkpoint has; raises UserError where the manifest is damaged."""
    return seal_of(checkpoint.path / MANIFEST)


def _wrong_owner(checkpoint: Checkpoint, run: str | None) -> str:
    state = read_state(checkpoint)
    if state.step != checkpoint.step:
        return f"state.json is of step {state.step}"
    if run and state.run not in (run, None):
        return f"state.json is of another run, {state.run}"
    return ""


def set_aside(checkpoint: Checkpoint) -> Path:
    """Rename a damaged checkpoint to step-N.damaged, where nothing uses it; an older one of that name goes."""
    target = checkpoint.path.with_suffix(".damaged")
    remove_folder(target)
    checkpoint.path.rename(target)
    fsync(target.parent)
    return target


def remove_leftovers(folder: Path) -> None:
    """Remove what a kill left half-written or half-removed."""
    for path in folder.glob("*.tmp"):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


def read_state(checkpoint: Checkpoint) -> CheckpointState:
    """state.json of a checkpoint; raises DamagedFileError where it is not what was written, OSError where it is not there."""
    path = checkpoint.path / "state.json"
    try:
        return CheckpointState.model_validate(read_sealed(path))
    except ValidationError as error:
        raise DamagedFileError(path) from error


def _as_json(training: TrainerState) -> dict[str, Any]:
    places = {"step": training.step, "replaced": training.replaced, "splits": training.batch_cuts}
    return {**places, "whole_gradients": training.whole_gradients}


def _versions() -> dict[str, str]:
    packages = ("torch", "tokenizers", "numpy", "safetensors")
    return {"python": platform.python_version(), **{package: version(package) for package in packages}}
