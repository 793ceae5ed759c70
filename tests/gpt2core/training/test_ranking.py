"""Which of two checkpoints is the better one."""

import math

from gpt2core.training.ranking import costs_by_step

ROWS = [
    {"step": 1, "val_loss": 3.0, "accuracy": 0.5},
    {"step": 2, "val_loss": 2.0, "accuracy": 0.4},
    {"step": 3, "val_loss": math.nan, "accuracy": math.nan},
]


def test_less_loss_and_more_accuracy_are_better_and_nan_is_the_worst() -> None:
    for best_by, order in (("val_loss", [2, 1, 3]), ("accuracy", [1, 2, 3]), ("bits_per_byte", [1, 2, 3])):
        costs = costs_by_step(ROWS, best_by)
        assert sorted(costs, key=lambda step: costs[step]) == order
