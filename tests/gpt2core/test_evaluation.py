"""Validation figures against closed formulas."""

import math

import pytest
import torch

from gpt2core.config import GPT2Config
from gpt2core.evaluation import evaluate
from gpt2core.model import GPT2


def uniform_model() -> GPT2:
    """A model that gives every token the same probability."""
    model = GPT2(GPT2Config(64, 8, 8, 2, 1)).initialise(0)
    torch.nn.init.zeros_(model.wte.weight)
    return model


def test_a_uniform_model_has_the_loss_of_its_vocabulary() -> None:
    tokens = torch.randint(0, 64, (4, 9))
    result = evaluate(uniform_model(), [(tokens[:, :-1], tokens[:, 1:])], tokens_per_byte=0.25)
    assert result.val_loss == pytest.approx(math.log(64), rel=1e-6)
    assert result.perplexity == pytest.approx(64, rel=1e-5)
    assert result.bits_per_byte == pytest.approx(6 * 0.25, rel=1e-6)
    assert result.val_tokens == 32


def test_the_mean_is_over_tokens_however_they_are_batched() -> None:
    model = GPT2(GPT2Config(64, 8, 8, 2, 1)).initialise(0)
    tokens = torch.randint(0, 64, (5, 9), generator=torch.Generator().manual_seed(0))
    inputs, targets = tokens[:, :-1], tokens[:, 1:].clone()
    targets[4, 3:] = -100  # a window that ends early
    together = evaluate(model, [(inputs, targets)], 1.0)
    apart = evaluate(model, [(inputs[:2], targets[:2]), (inputs[2:], targets[2:])], 1.0)
    probabilities = model(inputs).softmax(-1).gather(-1, targets.clamp(min=0).unsqueeze(-1)).squeeze(-1)
    by_hand = -probabilities[targets != -100].log().mean().item()
    assert together.val_loss == pytest.approx(by_hand, rel=1e-5)
    assert apart.val_loss == pytest.approx(together.val_loss, rel=1e-6)
    assert together.val_tokens == apart.val_tokens == 35


def test_evaluating_leaves_mode_weights_and_random_state_alone() -> None:
    model = GPT2(GPT2Config(64, 8, 8, 2, 1, dropout=0.5)).initialise(0).train()
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    state = torch.get_rng_state()
    tokens = torch.randint(0, 64, (2, 9), generator=torch.Generator().manual_seed(0))
    first = evaluate(model, [(tokens[:, :-1], tokens[:, 1:])], 1.0)
    assert model.training
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items())
    assert first == evaluate(model, [(tokens[:, :-1], tokens[:, 1:])], 1.0)
