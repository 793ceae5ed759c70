"""The compiled parts of a bfloat16 step against their formulas in float64, for sizes that no vector divides evenly.

Also tests `gpt2core.kernels.operators`.
"""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from gpt2core.kernels import training_kernels
from gpt2core.model.config import GPT2Config
from gpt2core.model.gelu import gelu
from gpt2core.model.gpt2 import GPT2
from gpt2core.model.layer_norm import LayerNorm
from gpt2core.model.linear_cross_entropy import linear_cross_entropy
from gpt2core.optimization.one_pass_adamw import OnePassAdamW

pytestmark = pytest.mark.kernels

ROUNDING = 2**-8  # of a bfloat16, relative
SIZES = [1, 15, 16, 17, 4096, 4097, 50_001]


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).bfloat16()


def assert_rounded(found: Tensor, exact: Tensor, spare: float = 1e-6, rounding: float = ROUNDING) -> None:
    assert ((found.double() - exact).abs() <= rounding * exact.abs() + spare).all()


@pytest.fixture(autouse=True)
def _compiled(compiled: None) -> None:
    assert training_kernels.library() is not None


@pytest.mark.parametrize("size", SIZES)
def test_gelu_is_rounded_once_and_its_gradient_twice(size: int) -> None:
    x, outer = (3 * random(size)).requires_grad_(), random(size, seed=1)
    exact = x.detach().double().requires_grad_()
    found, expected = gelu(x), F.gelu(exact, approximate="tanh")
    assert_rounded(found, expected)
    (by_input,) = torch.autograd.grad(found, x, outer)
    assert_rounded(by_input, torch.autograd.grad(expected, exact, outer.double())[0], rounding=(1 + ROUNDING) ** 2 - 1)


def test_gelu_takes_every_number_and_no_number() -> None:
    every = torch.arange(-(2**15), 2**15).to(torch.int16).view(torch.bfloat16)
    found, expected = gelu(every), F.gelu(every.double(), approximate="tanh")
    assert_rounded(found[every.isfinite()], expected[every.isfinite()])
    assert torch.equal(found.isnan(), every.isnan() | (every == -torch.inf))


def layer_norm_and_gradients(rows: int, width: int, exact: bool = False) -> list[Tensor]:
    """Output and gradients by x, weight and bias: in bfloat16, or from the same numbers in float64."""
    dtype, norm = torch.float64 if exact else torch.bfloat16, LayerNorm(width)
    norm.weight.data, norm.bias.data = random(width, seed=1).to(dtype), random(width, seed=2).to(dtype)
    x = random(rows, width).to(dtype).requires_grad_()
    out = norm(x)
    return [out, *torch.autograd.grad(out, (x, norm.weight, norm.bias), random(rows, width, seed=3).to(dtype))]


@pytest.mark.parametrize(("rows", "width"), [(1, 1), (1, 33), (70, 31), (333, 768)])
def test_layer_norm_and_its_gradients_are_rounded_once(rows: int, width: int) -> None:
    for found, exact in zip(layer_norm_and_gradients(rows, width), layer_norm_and_gradients(rows, width, True), strict=True):
        assert_rounded(found, exact, spare=1e-4)


def loss_and_gradients(dtype: torch.dtype) -> list[Tensor]:
    hidden, weight = (random(300, 48).to(dtype).requires_grad_(), random(1001, 48, seed=1).mul(0.25).to(dtype).requires_grad_())
    targets = torch.arange(300) * 3
    targets[5::7] = -100
    loss = linear_cross_entropy(hidden, weight, targets)
    return [loss.detach(), *torch.autograd.grad(loss / 3, (hidden, weight))]


def test_the_loss_and_its_gradients_are_those_in_float32_within_rounding() -> None:
    for found, exact in zip(loss_and_gradients(torch.bfloat16), loss_and_gradients(torch.float32), strict=True):
        assert (found.float() - exact).norm() <= 3 * ROUNDING * exact.norm()


def test_an_update_in_one_pass_is_adamws_and_leaves_the_weights_rounded_in_their_copy() -> None:
    ours, theirs = ([random(size, seed=2).float().requires_grad_() for size in (1, 17, 4097, 50_001)] for _ in range(2))
    copies = {parameter: torch.empty_like(parameter, dtype=torch.bfloat16) for parameter in ours}
    options = {"lr": 0.01, "betas": (0.9, 0.95), "eps": 1e-8, "weight_decay": 0.1}
    one_pass, reference = OnePassAdamW(ours, copies, **options), torch.optim.AdamW(theirs, **options)
    one_pass.clip = 0.3
    for step in range(4):
        for mine, other in zip(ours, theirs, strict=True):
            mine.grad = random(len(mine), seed=step).float()
            other.grad = mine.grad * 0.3
        one_pass.step()
        reference.step()
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, rtol=2e-6, atol=2e-7)
        assert torch.equal(copies[mine], mine.bfloat16())
        for key in ("step", "exp_avg", "exp_avg_sq"):
            torch.testing.assert_close(one_pass.state[mine][key], reference.state[other][key], rtol=2e-6, atol=2e-7)


def gradients(model: GPT2) -> list[Tensor]:
    tokens = torch.arange(66).view(2, 33) % 61
    loss = model.loss(tokens, tokens.roll(-1, 1))
    return [loss.detach(), *torch.autograd.grad(loss, list(model.parameters()))]


@pytest.fixture
def model() -> GPT2:
    return GPT2(GPT2Config(61, 33, 64, 2, 2)).initialise(0).bfloat16().train()


def test_any_number_of_threads_gives_the_same_bits() -> None:
    alone = results()
    torch.set_num_threads(2)
    shared = results()
    torch.set_num_threads(1)
    assert all(torch.equal(one, other) for one, other in zip(alone, shared, strict=True))


def results() -> list[Tensor]:
    x = random(SIZES[-1]).requires_grad_()
    activated = gelu(x)
    of_norm = layer_norm_and_gradients(333, 130)
    return [*loss_and_gradients(torch.bfloat16), activated, *torch.autograd.grad(activated.sum(), x), *of_norm]


def test_without_a_compiler_a_model_has_the_same_gradients_within_rounding(model: GPT2, request: pytest.FixtureRequest) -> None:
    compiled = gradients(model)
    request.getfixturevalue("no_compiler")
    assert training_kernels.library() is None
    plain = gradients(model)
    assert compiled[0].item() == pytest.approx(plain[0].item(), rel=2e-3)
    one, other = (torch.cat([part.flatten().float() for part in found[1:]]) for found in (compiled, plain))
    assert (one - other).norm() <= 0.02 * other.norm()
