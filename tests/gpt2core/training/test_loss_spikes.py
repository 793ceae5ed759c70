"""A spike is what stands out from the losses before it: not noise, not a fall, and never the reason of a change."""

import math
import random

from gpt2core.training.loss_spikes import FEWEST, WINDOW, LossSpikes


def noisy(count: int, seed: int = 0) -> list[float]:
    """A loss that falls from 6 to about 3, with the noise of small batches."""
    chance = random.Random(seed)
    return [3 + 3 * math.exp(-step / 100) + chance.gauss(0, 0.15) for step in range(count)]


def spikes_in(losses: list[float]) -> list[int]:
    found = LossSpikes()
    return [number for number, loss in enumerate(losses) if found.rise(loss) is not None]


def test_ordinary_noise_around_a_falling_loss_is_no_spike() -> None:
    assert sum(len(spikes_in(noisy(1000, seed))) for seed in range(10)) == 0


def test_a_loss_that_jumps_is_a_spike_by_as_much_as_it_rose() -> None:
    losses = [2.0, 2.2] * 20
    found = LossSpikes(losses)
    rise = found.rise(5.1)
    assert rise is not None
    assert abs(rise - 2.9) < 1e-9  # the upper median of the losses before is 2.2
    assert spikes_in([*losses, 5.1, *losses]) == [40]


def test_a_second_spike_is_not_hidden_by_the_first() -> None:
    losses = noisy(300)
    losses[200] = losses[203] = 9.0
    assert spikes_in(losses) == [200, 203]


def test_a_higher_level_is_a_spike_only_until_it_is_what_is_usual() -> None:
    losses = [3.0] * WINDOW + [4.0] * WINDOW
    assert spikes_in(losses) == list(range(WINDOW, WINDOW + WINDOW // 10))


def test_a_resumed_run_judges_as_one_that_was_not_interrupted() -> None:
    losses = noisy(200)
    losses[120] = 8.0
    resumed = LossSpikes(losses[:119])
    assert [resumed.rise(loss) is not None for loss in losses[119:122]] == [False, True, False]
    assert spikes_in(losses) == [120]


def test_the_first_losses_and_those_that_are_not_finite_are_not_judged() -> None:
    assert spikes_in([3.0] * (FEWEST - 1) + [9.0]) == []
    assert spikes_in([3.0] * FEWEST + [math.nan, math.inf, 3.0]) == []
