"""At which steps a run does something besides training, and when it ends."""

from __future__ import annotations

from collections.abc import Iterator

from configs.schema import RunConfig
from gpt2core.checkpoints.checkpoint import find_checkpoints
from gpt2core.training.ranking import FIGURE_NAMES, cost, evaluations_without_improvement
from tasks.runs.run_folder import RunFolder
from tasks.terminal.console import say


def milestones(config: RunConfig, step: int) -> Iterator[int]:
    """Steps at which something happens (evaluation, checkpoint), from `step` to the end of the run."""
    last, intervals = config.train.steps, (config.train.checkpoint_every, config.evaluate.every)
    for candidate in range(step, last + 1):
        if candidate == last or any(candidate % interval == 0 for interval in intervals):
            yield candidate


def is_evaluated_at(config: RunConfig, folder: RunFolder, step: int) -> bool:
    """Whether this milestone is sampled and evaluated, and has not been yet."""
    due = step % config.evaluate.every == 0 or step == config.train.steps
    return due and step not in {row["step"] for row in folder.evaluations.rows()}


def missed_evaluations(config: RunConfig, folder: RunFolder, step: int) -> list[int]:
    """Steps before `step` whose checkpoint is there and whose figures are not."""
    before = [checkpoint.step for checkpoint in find_checkpoints(folder.checkpoints) if checkpoint.step < step]
    return [missed for missed in before if is_evaluated_at(config, folder, missed)]


def stops_early(config: RunConfig, folder: RunFolder, step: int) -> bool:
    """Whether evaluate.best_by has not improved for as many evaluations as `train.early_stopping` waits; says so."""
    stopping, rows, best_by = config.train.early_stopping, folder.evaluations.rows(), config.evaluate.best_by
    waited = evaluations_without_improvement((cost(row, best_by) for row in rows), stopping.min_delta)
    if not stopping.patience or waited < stopping.patience or step >= config.train.steps:
        return False
    best = min(
        rows, key=lambda row: (cost(row, best_by), -row["step"])
    )  # among equals the last, since that one will be registered
    say(
        "early stop",
        f"{waited} evaluations without improvement: best {FIGURE_NAMES[best_by]} {best[best_by]:.3f} "
        f"at step {best['step']:,}, stopped at step {step:,} of {config.train.steps:,}",
    )
    return True
