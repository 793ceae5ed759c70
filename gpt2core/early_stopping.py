"""When validation loss has stopped falling."""

from __future__ import annotations

import math
from collections.abc import Iterable


def evaluations_without_improvement(losses: Iterable[float], min_delta: float) -> int:
    """How many of the last validation losses were not lower, by more than `min_delta`, than the best one before them."""
    best, waited = math.inf, 0
    for loss in losses:
        if loss < best - min_delta:
            best, waited = loss, 0
        else:
            waited += 1
    return waited
