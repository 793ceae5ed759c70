"""Each optimizer against its formula, written out in float64, and against torch's own classes.

Also tests `gpt2core.optimization.one_pass_adamw`.
"""

from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor

from configs.errors import UserError
from configs.schema import TrainSettings
from gpt2core.model.config import GPT2Config
from gpt2core.model.gpt2 import GPT2
from gpt2core.optimization.optimizers import Optimization
from gpt2core.optimization.trainable import choose_trainable

KEPT = torch.zeros((), dtype=torch.bool)
RATES = [0.01, 0.02, 0.005]
Weights = dict[str, np.ndarray]


def make(**options: object) -> tuple[GPT2, Optimization, TrainSettings]:
    settings = TrainSettings.model_validate({"weight_decay": 0.0, **options})
    model = GPT2(GPT2Config(11, 4, 8, 2, 1)).initialise(0)
    return model, Optimization(model, settings), settings


def give_gradients(model: GPT2, step: int) -> None:
    generator = torch.Generator().manual_seed(step)
    for parameter in model.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator) * 0.1


def arrays(model: GPT2, of: Callable[[Tensor], Tensor] = lambda p: p) -> Weights:
    return {name: of(parameter).detach().double().numpy().copy() for name, parameter in model.named_parameters()}


def three_steps(model: GPT2, optimizer: Optimization) -> tuple[list[Weights], list[Weights]]:
    """Weights before and after each of three updates, and the gradients of each."""
    weights, gradients = [arrays(model)], []
    for step, rate in enumerate(RATES):
        give_gradients(model, step)
        gradients.append(arrays(model, lambda p: p.grad))
        optimizer.update(rate, KEPT)
        weights.append(arrays(model))
    return weights, gradients


def assert_close(found: Weights, expected: Weights) -> None:
    for name, array in expected.items():
        np.testing.assert_allclose(found[name], array, rtol=2e-6, atol=2e-8, err_msg=name)


def adam(weights: Weights, gradients: list[Weights], epsilon: Callable[[int], float], tensorflow: bool) -> Weights:
    """Three Adam steps; TensorFlow's form corrects the bias in the learning rate and adds epsilon to the raw root."""
    beta1, beta2, now = 0.9, 0.95, dict(weights)
    first, second = ({name: np.zeros_like(array) for name, array in weights.items()} for _ in range(2))
    for t, (gradient, rate) in enumerate(zip(gradients, RATES, strict=True), 1):
        for name, g in gradient.items():
            m = first[name] = beta1 * first[name] + (1 - beta1) * g
            v = second[name] = beta2 * second[name] + (1 - beta2) * g**2
            if tensorflow:
                now[name] = now[name] - rate * np.sqrt(1 - beta2**t) / (1 - beta1**t) * m / (np.sqrt(v) + epsilon(t))
            else:
                now[name] = now[name] - rate * (m / (1 - beta1**t)) / (np.sqrt(v / (1 - beta2**t)) + epsilon(t))
    return now


@pytest.mark.parametrize("epsilon", [1e-8, 1e-2])
def test_three_steps_of_adam_are_those_of_the_paper(epsilon: float) -> None:
    weights, gradients = three_steps(*make(epsilon=epsilon)[:2])
    assert_close(weights[-1], adam(weights[0], gradients, lambda t: epsilon, tensorflow=False))


@pytest.mark.parametrize("epsilon", [1e-8, 1e-2])
def test_tensorflows_adam_is_ours_with_its_epsilon_hat_divided_by_the_bias_correction(epsilon: float) -> None:
    weights, gradients = three_steps(*make(epsilon=epsilon)[:2])
    assert_close(weights[-1], adam(weights[0], gradients, lambda t: epsilon * np.sqrt(1 - 0.95**t), tensorflow=True))


def test_with_its_own_small_epsilon_tensorflows_adam_differs_by_less_than_rounding_shows() -> None:
    weights, gradients = three_steps(*make()[:2])
    tensorflow = adam(weights[0], gradients, lambda t: 1e-8, tensorflow=True)
    for name, array in tensorflow.items():
        moved = np.linalg.norm(array - weights[0][name])
        assert np.linalg.norm(weights[-1][name] - array) <= 1e-4 * moved, name


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_sgd_is_its_closed_form(momentum: float, decay: float) -> None:
    weights, gradients = three_steps(*make(optimizer="sgd", momentum=momentum, weight_decay=decay)[:2])
    buffers = {name: np.zeros_like(array) for name, array in weights[0].items()}
    for (before, after), gradient, rate in zip(pairwise(weights), gradients, RATES, strict=True):
        for name, g in gradient.items():
            buffers[name] = momentum * buffers[name] + g + (decay * before[name] if g.ndim >= 2 else 0.0)
            np.testing.assert_allclose(after[name], before[name] - rate * buffers[name], rtol=2e-6, atol=2e-8, err_msg=name)


def test_sgd_takes_momentum_0_9_unless_told_otherwise() -> None:
    usual, explicit = (three_steps(*make(optimizer="sgd", **more)[:2])[0][-1] for more in ({}, {"momentum": 0.9}))
    assert all(np.array_equal(usual[name], explicit[name]) for name in usual)


def test_muon_takes_the_matrices_of_the_blocks_and_adamw_the_rest() -> None:
    model, ours, settings = make(optimizer="muon", weight_decay=0.1)
    twin = GPT2(model.config).initialise(0)
    inside = [p for name, p in twin.named_parameters() if name.startswith("h.") and p.ndim == 2]
    tables, vectors = [twin.wte.weight, twin.wpe.weight], [p for p in twin.parameters() if p.ndim == 1]
    assert len(inside) == 4
    muon = torch.optim.Muon(inside, 1.0, weight_decay=0.1, momentum=0.95, nesterov=True, adjust_lr_fn="match_rms_adamw")
    groups = [{"params": tables, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]
    adamw = torch.optim.AdamW(groups, 1.0, (settings.beta1, settings.beta2), eps=1e-8, foreach=False)
    for step, rate in enumerate(RATES):
        give_gradients(model, step)
        give_gradients(twin, step)
        ours.update(rate, KEPT)
        for optimizer in (muon, adamw):
            for group in optimizer.param_groups:
                group["lr"] = rate
            optimizer.step()
    for (name, one), other in zip(model.named_parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-8, msg=name)


def test_muon_without_a_matrix_of_the_blocks_is_refused() -> None:
    model = GPT2(GPT2Config(11, 4, 8, 2, 1))
    choose_trainable(model, settings := TrainSettings(trainable=["w*e.*", "h.0.ln_1.*"], optimizer="muon"))
    with pytest.raises(UserError, match=r"muon is for the blocks' matrices, and train\.trainable has none of them: use adamw"):
        Optimization(model, settings)


def test_a_muon_update_has_singular_values_near_one_times_its_scale() -> None:
    model, ours, _ = make(optimizer="muon")
    before = model.h[0].mlp.c_fc.weight.detach().clone()
    give_gradients(model, 0)
    ours.update(0.01, KEPT)
    change = (model.h[0].mlp.c_fc.weight.detach() - before) / (0.01 * 0.2 * 32**0.5)
    values = torch.linalg.svdvals(change)
    assert values.min() > 0.6
    assert values.max() < 1.3


@pytest.mark.parametrize("optimizer", ["adamw", "sgd", "muon"])
@pytest.mark.parametrize("first", [0, 2])
def test_an_update_that_is_left_out_changes_neither_weights_nor_moments(optimizer: str, first: int) -> None:
    """Whether it is the very first one or comes after others."""
    model, ours, _ = make(optimizer=optimizer)
    reference, theirs, _ = make(optimizer=optimizer)
    for step in range(4):
        for each in (model, reference):
            give_gradients(each, step)
        if step == first:
            for parameter in model.parameters():
                parameter.grad = torch.full_like(parameter, float("nan"))
            ours.update(RATES[0], ~KEPT)
            continue
        ours.update(RATES[0], KEPT)
        theirs.update(RATES[0], KEPT)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), reference.parameters(), strict=True))
    found, expected = ours.tensors(), theirs.tensors()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[key], expected[key]) for key in expected)
