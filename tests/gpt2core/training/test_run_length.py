"""One length in four units."""

import pytest

from configs.schema import TrainSettings
from gpt2core.machine.quantities import duration
from gpt2core.training.run_length import length_of, steps_of

BATCH = {"batch_size": 4, "accumulate": 2}


@pytest.mark.parametrize(
    ("wanted", "steps"),
    [({"steps": 70}, 70), ({"epochs": 2.0}, 25), ({"tokens": 16_001}, 126), ({"hours": 0.5}, 900), ({"hours": 1e-9}, 1)],
)
def test_every_unit_becomes_steps(wanted: dict[str, float], steps: int) -> None:
    settings = TrainSettings.model_validate({**BATCH, **wanted})
    assert steps_of(settings, n_ctx=16, windows_per_epoch=100, seconds_per_step=2.0) == steps


def test_the_other_units_follow_from_one() -> None:
    length = length_of(TrainSettings.model_validate({**BATCH, "epochs": 3}), 16, 100, 36.0)
    assert (length.steps, length.tokens, length.epochs, length.hours) == (38, 38 * 8 * 16, 38 * 8 / 100, 0.38)
    assert str(length) == "38 steps = 4,864 tokens = 3.04 epochs = about 22.8 minutes"


def test_what_cannot_be_known_is_left_out() -> None:
    assert str(length_of(TrainSettings(steps=5), 16)) == "5 steps = 640 tokens"
    assert steps_of(TrainSettings.model_validate({"epochs": 2}), 16, None, None) == 0


def test_times_are_written_for_people() -> None:
    assert [duration(s) for s in (0.0351, 42.2, 200, 9000, 300_000)] == [
        "0.035 s",
        "42 s",
        "3.3 minutes",
        "2.5 hours",
        "3.5 days",
    ]
