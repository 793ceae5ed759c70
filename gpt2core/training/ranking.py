"""Which of two evaluated checkpoints is the better one: the only place that knows."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

from configs.evaluation import BestBy

FIGURE_NAMES: dict[BestBy, str] = {
    "val_loss": "validation loss",
    "perplexity": "perplexity",
    "bits_per_byte": "bits per byte",
    "accuracy": "accuracy",
    "calibration_error": "calibration error",
}
HIGHER_IS_BETTER: frozenset[BestBy] = frozenset({"accuracy"})


def cost(row: Mapping[str, float], best_by: BestBy) -> float:
    """A row of evaluations.jsonl as one number, the lower the better; infinite where the figure is missing or NaN."""
    value = row.get(best_by, math.nan)
    return math.inf if math.isnan(value) else -value if best_by in HIGHER_IS_BETTER else value


def costs_by_step(rows: Iterable[Mapping[str, float]], best_by: BestBy) -> dict[int, float]:
    """The cost of every evaluated step."""
    return {int(row["step"]): cost(row, best_by) for row in rows}


def evaluations_without_improvement(costs: Iterable[float], min_delta: float) -> int:
    """How many of the last costs (see `ranking`) were not lower, by more than `min_delta`, than the best one before them."""
    best, waited = math.inf, 0
    for cost in costs:
        if cost < best - min_delta:
            best, waited = cost, 0
        else:
            waited += 1
    return waited
