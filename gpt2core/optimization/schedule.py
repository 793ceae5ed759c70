"""The learning rate as a pure function of the step."""

from __future__ import annotations

import math

from configs.schema import TrainSettings


def learning_rate(step: int, settings: TrainSettings) -> float:
    """Learning rate of the update that follows `step` finished updates (0 <= step < settings.steps).

    Linear warm-up to the peak over `warmup_steps`, then constant, linear or half a cosine down to
    `final_learning_rate` times the peak at the very last update. wsd stays at the peak until the last `decay_fraction`
    of all steps and falls linearly from there.
    """
    peak, warmup = settings.learning_rate, settings.warmup_steps
    if step < warmup:
        return peak * (step + 1) / warmup
    if settings.schedule == "constant":
        return peak
    last = settings.steps - 1
    start = max(warmup, last - round(settings.decay_fraction * settings.steps)) if settings.schedule == "wsd" else warmup
    progress = max(0, step - start) / max(1, last - start)
    remaining = 0.5 * (1.0 + math.cos(math.pi * progress)) if settings.schedule == "cosine" else 1.0 - progress
    return peak * (settings.final_learning_rate + (1.0 - settings.final_learning_rate) * remaining)
