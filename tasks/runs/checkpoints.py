"""A run's checkpoints as a table, and what a user may do with them by hand."""

from __future__ import annotations

from dataclasses import dataclass

from configs.errors import UserError
from gpt2core.checkpoints.checkpoint import Checkpoint, find_checkpoints, find_damage
from gpt2core.checkpoints.retention import pin, prune, reasons_to_keep, saved_at
from gpt2core.checkpoints.weights_history import find_weights
from gpt2core.training.ranking import costs_by_step
from tasks.runs.run_folder import RunFolder


@dataclass(frozen=True)
class CheckpointRow:
    """A line of the table; `n_bytes` is what no other checkpoint shares; `damage` is None where it was not looked for."""

    step: int
    saved: float
    n_bytes: int
    val_loss: float | None
    kept_because: list[str]
    damage: str | None


def list_checkpoints(run: RunFolder, verify: bool) -> list[CheckpointRow]:
    """The checkpoints of a run and the weights that are kept of others, oldest first; `verify` reads every file of them."""
    checkpoints, history = find_checkpoints(run.checkpoints), find_weights(run.checkpoints)
    losses = {int(row["step"]): row["val_loss"] for row in run.evaluations.rows()}
    reasons = {weights.step: ["weights only"] for weights in history}
    reasons |= reasons_to_keep(checkpoints, run.record.config.train, _costs(run), run.started)
    return [
        CheckpointRow(
            checkpoint.step,
            saved_at(checkpoint),
            sum(file.stat().st_size for file in checkpoint.path.iterdir() if file.stat().st_nlink == 1),
            losses.get(checkpoint.step),
            reasons[checkpoint.step],
            find_damage(checkpoint, run.id) if verify else None,
        )
        for checkpoint in sorted({c.step: c for c in (*history, *checkpoints)}.values(), key=lambda each: each.step)
    ]


def pin_checkpoint(run: RunFolder, step: int) -> None:
    """Keep this step's checkpoint for ever; raises UserError where there is none."""
    pin(_checkpoint_at(run, step))


def prune_checkpoints(run: RunFolder) -> list[Checkpoint]:
    """Remove what the run's settings give no reason to keep; raises UserError while the run is being trained."""
    with run.locked():
        return prune(run.checkpoints, run.record.config.train, _costs(run), run.started)


def _checkpoint_at(run: RunFolder, step: int) -> Checkpoint:
    found = find_checkpoints(run.checkpoints)
    for checkpoint in found:
        if checkpoint.step == step:
            return checkpoint
    known = ", ".join(str(checkpoint.step) for checkpoint in found) or "none"
    raise UserError(f"Run {run.id} has no checkpoint of step {step}. Steps: {known}.")


def _costs(run: RunFolder) -> dict[int, float]:
    return costs_by_step(run.evaluations.rows(), run.record.config.evaluate.best_by)
