"""Noise replaces as many input tokens as it should, evenly, and depends on seed and window alone."""

import pytest
import torch

from configs.schema import TrainSettings
from gpt2core.model.config import GPT2Config
from gpt2core.model.gpt2 import GPT2
from gpt2core.store.token_store import TokenStore
from gpt2core.training.batches import Batches
from gpt2core.training.callback import History
from gpt2core.training.noise import add_noise
from gpt2core.training.trainer import Trainer

N_VOCAB = 50
CLEAN = torch.full((64, 128), N_VOCAB)  # an id that is never drawn, so that every replacement shows


def noisy(probability: float, seed: int = 0, index: int = 0, tokens: torch.Tensor = CLEAN) -> torch.Tensor:
    return add_noise(tokens, TrainSettings(noise=probability, seed=seed), index, N_VOCAB)


@pytest.mark.parametrize("probability", [0.05, 0.5, 0.95])
def test_tokens_are_replaced_with_the_given_probability_by_ids_that_are_all_as_likely(probability: float) -> None:
    found = noisy(probability)
    replaced = found[found != N_VOCAB]
    expected, deviation = probability * CLEAN.numel(), (probability * (1 - probability) * CLEAN.numel()) ** 0.5
    assert abs(len(replaced) - expected) < 4 * deviation
    counts = torch.bincount(replaced, minlength=N_VOCAB)
    assert len(counts) == N_VOCAB
    chi_squared = ((counts - len(replaced) / N_VOCAB) ** 2 / (len(replaced) / N_VOCAB)).sum()
    assert chi_squared < 90  # 49 degrees of freedom: more than that once in 3,000


def test_without_noise_nothing_is_touched() -> None:
    assert noisy(0.0) is CLEAN


def test_the_same_windows_get_the_same_noise_in_batches_of_any_size() -> None:
    halves = [noisy(0.3, index=index, tokens=CLEAN[:32]) for index in range(2)]
    assert torch.equal(torch.cat(halves), noisy(0.3))


def test_other_seeds_and_windows_get_other_noise() -> None:
    assert torch.equal(noisy(0.3), noisy(0.3))
    agreeing = [(noisy(0.3) == other).float().mean() for other in (noisy(0.3, seed=1), noisy(0.3, index=1))]
    assert all(share == pytest.approx(0.7**2 + 0.3**2 / N_VOCAB, abs=0.02) for share in agreeing)


def test_the_trainer_predicts_clean_targets_from_noisy_inputs(store: TokenStore) -> None:
    settings = TrainSettings(steps=4, batch_size=2, warmup_steps=0, noise=0.4, clip=0.0)
    model, twin = (GPT2(GPT2Config(300, 16, 16, 2, 1)).initialise(0) for _ in range(2))
    trainer = Trainer(model, Batches(store.stream("train"), 16, 2, 0), settings)
    history = History()
    trainer.callbacks.append(history)
    trainer.run_until(1)
    inputs, targets = trainer.batches.at(0)
    noised = add_noise(inputs, settings, 0, 300)
    assert not torch.equal(noised, inputs)
    assert history.losses[0] == pytest.approx(twin.loss(noised, targets).item(), rel=1e-6)
    assert torch.equal(inputs[:, 1:], targets[:, :-1])  # the batch itself is untouched
