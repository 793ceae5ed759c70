"""Which checkpoints stay: the newest, the best by a chosen figure, one every few hours, and those that somebody pinned."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from configs.schema import TrainSettings
from gpt2core.checkpoints.checkpoint import Checkpoint, find_checkpoints, find_damage, read_state
from gpt2core.checkpoints.weights_history import keep_weights
from gpt2core.machine.durable import fsync, remove_folder
from gpt2core.machine.sealed_json import DamagedFileError


def pin(checkpoint: Checkpoint) -> None:
    """Keep a checkpoint whatever the settings say."""
    _pin_of(checkpoint).touch()
    fsync(checkpoint.path.parent)


def prune(folder: Path, settings: TrainSettings, costs: Mapping[int, float], started: float) -> list[Checkpoint]:
    """Remove what `reasons_to_keep` gives no reason for, once the newest checkpoint verifies; returns what was removed.

    With `train.keep_weights_history` the weights of what is removed stay.
    """
    checkpoints = find_checkpoints(folder)
    if not checkpoints or find_damage(checkpoints[-1]):
        return []
    reasons = reasons_to_keep(checkpoints, settings, costs, started)
    removed = [checkpoint for checkpoint in checkpoints if not reasons[checkpoint.step]]
    for checkpoint in removed:
        if settings.keep_weights_history and not find_damage(checkpoint):
            keep_weights(checkpoint)
        remove_folder(checkpoint.path)
    return removed


def reasons_to_keep(
    checkpoints: list[Checkpoint], settings: TrainSettings, costs: Mapping[int, float], started: float
) -> dict[int, list[str]]:
    """Why each checkpoint (oldest first) stays, by step: "last", "best", "every 2 h", "pinned"; nothing: it may go.

    `costs` by step say which is best, the lowest (see `ranking`); `started` is the run's start in seconds since 1970.
    """
    newest = {checkpoint.step for checkpoint in checkpoints[-settings.keep_checkpoints :]}
    evaluated = sorted((costs[c.step], -c.step) for c in checkpoints if c.step in costs)
    best = {-newest_first for _, newest_first in evaluated[: settings.keep_best]}
    hourly = _one_every(settings.keep_every_hours, checkpoints, started)
    pinned = {checkpoint.step for checkpoint in checkpoints if _pin_of(checkpoint).exists()}
    names = {"last": newest, "best": best, f"every {settings.keep_every_hours:g} h": hourly, "pinned": pinned}
    return {c.step: [name for name, steps in names.items() if c.step in steps] for c in checkpoints}


def saved_at(checkpoint: Checkpoint) -> float:
    """When a checkpoint was made, in seconds since 1970; 0 where that cannot be read."""
    try:
        return read_state(checkpoint).saved
    except (OSError, DamagedFileError):
        return 0.0


def _one_every(hours: float, checkpoints: list[Checkpoint], started: float) -> set[int]:
    kept, last = set(), started
    for checkpoint in checkpoints:
        now = saved_at(checkpoint)
        if hours and abs(now - last) >= hours * 3600:  # a clock that was set back must not stop it for ever
            kept.add(checkpoint.step)
            last = now
    return kept


def _pin_of(checkpoint: Checkpoint) -> Path:
    return checkpoint.path.with_suffix(".pin")
