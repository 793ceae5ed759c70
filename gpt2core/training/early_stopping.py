"""When the figure that counts has stopped getting better."""

from __future__ import annotations

import math
from collections.abc import Iterable


def evaluations_without_improvement(costs: Iterable[float], min_delta: float) -> int:
    """How many of the last costs (see `ranking`) were not lower, by more than `min_delta`, than the best one before them."""
    best, waited = math.inf, 0
    for cost in costs:
        if cost < best - min_delta:
            best, waited = cost, 0
        else:
            waited += 1
    return waited
