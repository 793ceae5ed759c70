"""Notices losses that stand out from those before them. It only looks on: nothing here can change training."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable

WINDOW = 50
"""Losses that the next one is compared with."""
FEWEST = 20
"""Losses without which nothing is judged."""
USUAL = 0.9
"""Share of the losses in the window that count as usual; as many spikes as the rest hide no later one."""
TIMES = 5.0
"""A spike rises above the median by so many times as much as the usual losses do: 6.4 standard deviations of normal noise."""
SMALLEST_RISE = 0.1
"""Nats that a spike rises at least, however little the losses differ: a tenth more perplexity."""


class LossSpikes:
    """Compares each loss with the `WINDOW` losses before it, by their median and a quantile; a function of those alone."""

    def __init__(self, losses: Iterable[float] = ()) -> None:
        self._recent = deque((loss for loss in losses if math.isfinite(loss)), maxlen=WINDOW)

    def rise(self, loss: float) -> float | None:
        """By how many nats this loss, the next one, spikes above the median of those before; None if it is no spike."""
        if not math.isfinite(loss):
            return None
        before = sorted(self._recent)
        self._recent.append(loss)
        if len(before) < FEWEST:
            return None
        median = before[len(before) // 2]
        usual = before[int(USUAL * len(before))] - median
        rise = loss - median
        return rise if rise > max(TIMES * usual, SMALLEST_RISE) else None
