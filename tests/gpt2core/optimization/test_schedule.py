"""The learning rate against its formula, written another way."""

import itertools
import math

import pytest

from configs.schema import TrainSettings
from gpt2core.optimization.schedule import learning_rate

SETTINGS = TrainSettings(steps=100, learning_rate=1e-3, warmup_steps=10, final_learning_rate=0.1)


def test_warm_up_rises_linearly_to_the_peak() -> None:
    rates = [learning_rate(step, SETTINGS) for step in range(10)]
    assert rates == pytest.approx([1e-4 * (step + 1) for step in range(10)])


def test_cosine_is_half_way_down_in_the_middle_and_at_its_end_at_the_last_update() -> None:
    assert learning_rate(10, SETTINGS) == pytest.approx(1e-3)
    assert learning_rate(99, SETTINGS) == pytest.approx(1e-4)
    expected = 1e-4 + 9e-4 * (1 + math.cos(math.pi * 40 / 89)) / 2
    assert learning_rate(50, SETTINGS) == pytest.approx(expected)


def test_linear_loses_the_same_at_every_step() -> None:
    linear = SETTINGS.model_copy(update={"schedule": "linear"})
    rates = [learning_rate(step, linear) for step in range(10, 100)]
    losses = [before - after for before, after in itertools.pairwise(rates)]
    assert losses == pytest.approx([9e-4 / 89] * 89)


def test_constant_stays_at_the_peak_after_warm_up() -> None:
    constant = SETTINGS.model_copy(update={"schedule": "constant"})
    assert {learning_rate(step, constant) for step in range(10, 100)} == {1e-3}


@pytest.mark.parametrize("schedule", ["cosine", "linear", "constant", "wsd"])
def test_warm_up_longer_than_the_run_never_passes_the_peak(schedule: str) -> None:
    settings = SETTINGS.model_copy(update={"schedule": schedule, "steps": 5, "warmup_steps": 50})
    assert [learning_rate(step, settings) for step in range(5)] == pytest.approx([2e-5 * (step + 1) for step in range(5)])


def test_wsd_stays_at_the_peak_and_falls_linearly_over_the_last_fifth() -> None:
    stable = SETTINGS.model_copy(update={"schedule": "wsd"})
    rates = [learning_rate(step, stable) for step in range(100)]
    assert rates[10:80] == [1e-3] * 70
    assert rates[79:] == pytest.approx([1e-3 - 9e-4 / 20 * fallen for fallen in range(21)])
