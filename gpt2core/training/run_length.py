"""How long a run is: steps, epochs, tokens or hours, whichever is given, and the others from it."""

from __future__ import annotations

import math
from dataclasses import dataclass

from configs.schema import TrainSettings
from gpt2core.machine.quantities import duration


@dataclass(frozen=True)
class RunLength:
    """The same length in every unit; `epochs` needs the text and `hours` a trial, so they may be unknown."""

    steps: int
    tokens: int
    epochs: float | None
    hours: float | None

    def __str__(self) -> str:
        parts = [f"{self.steps:,} steps", f"{self.tokens:,} tokens"]
        parts += [f"{self.epochs:,.3g} epochs"] if self.epochs is not None else []
        parts += [f"about {duration(3600 * self.hours)}"] if self.hours is not None else []
        return " = ".join(parts)


def steps_of(settings: TrainSettings, n_ctx: int, windows_per_epoch: int | None, seconds_per_step: float | None) -> int:
    """Steps that the settings stand for, at least one; 0 where what is needed to know is not given.

    A part of a step counts as a whole one in epochs and tokens, and as none in hours.
    """
    windows = settings.batch_size * settings.accumulate
    if settings.epochs:
        return max(1, math.ceil(settings.epochs * windows_per_epoch / windows)) if windows_per_epoch else 0
    if settings.tokens:
        return max(1, math.ceil(settings.tokens / (windows * n_ctx)))
    if settings.hours:
        return max(1, int(3600 * settings.hours / seconds_per_step)) if seconds_per_step else 0
    return settings.steps


def length_of(
    settings: TrainSettings, n_ctx: int, windows_per_epoch: int | None = None, seconds_per_step: float | None = None
) -> RunLength:
    """The run's length in every unit that can be known."""
    windows, steps = settings.batch_size * settings.accumulate, steps_of(settings, n_ctx, windows_per_epoch, seconds_per_step)
    epochs = steps * windows / windows_per_epoch if windows_per_epoch else None
    return RunLength(steps, steps * windows * n_ctx, epochs, steps * seconds_per_step / 3600 if seconds_per_step else None)
