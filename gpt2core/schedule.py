"""The learning rate as a pure function of the step."""

from __future__ import annotations

import math

from configs.schema import TrainSettings


def learning_rate(step: int, settings: TrainSettings) -> float:
    """Learning rate of the update that follows `step` finished updates (0 <= step < settings.steps).

    Linear warm-up to the peak over `warmup_steps`, then constant, linear or half a cosine down to
    `final_learning_rate` times the peak at the very last update.
    """
    peak, warmup = settings.learning_rate, settings.warmup_steps
    if step < warmup:
        return peak * (step + 1) / warmup
    if settings.schedule == "constant":
        return peak
    progress = (step - warmup) / max(1, settings.steps - 1 - warmup)
    remaining = 1.0 - progress if settings.schedule == "linear" else 0.5 * (1.0 + math.cos(math.pi * progress))
    return peak * (settings.final_learning_rate + (1.0 - settings.final_learning_rate) * remaining)
