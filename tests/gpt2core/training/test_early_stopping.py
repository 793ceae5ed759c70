"""Patience counts evaluations since the last improvement."""

import pytest

from gpt2core.training.ranking import evaluations_without_improvement


@pytest.mark.parametrize(
    ("losses", "min_delta", "waited"),
    [
        ([], 0.0, 0),
        ([5.0], 0.0, 0),
        ([5.0, 4.0, 3.0], 0.0, 0),
        ([5.0, 4.0, 4.0, 4.5], 0.0, 2),
        ([5.0, 4.0, 4.5, 3.9], 0.0, 0),
        ([5.0, 4.0, 3.95, 3.91], 0.1, 2),
        ([5.0, 4.0, 3.95, 3.89], 0.1, 0),  # what small steps add up to counts
        ([5.0, float("nan"), float("nan")], 0.0, 2),
    ],
)
def test_evaluations_without_improvement(losses: list[float], min_delta: float, waited: int) -> None:
    assert evaluations_without_improvement(losses, min_delta) == waited
