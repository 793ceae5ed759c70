"""The compiled parts of a float32 step against float64, for sizes that no tile or vector divides evenly.

Also tests `gpt2core.model.layer_norm`.
"""

import math
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from gpt2core.kernels import matmul, training_kernels
from gpt2core.machine.kernel_level import level, reaches
from gpt2core.model.gelu import gelu
from gpt2core.model.gradient_sums import sum_gradients_of
from gpt2core.model.layer_norm import LayerNorm
from gpt2core.model.linear import linear
from gpt2core.model.linear_cross_entropy import linear_cross_entropy
from gpt2core.optimization.one_pass_adamw import OnePassAdamW

pytestmark = pytest.mark.kernels
SIZES = [(1, 1, 1), (3, 6, 10), (8, 16, 48), (37, 131, 51), (70, 64, 98), (205, 35, 66), (270, 1601, 515), (100, 513, 3100)]
"""Rows, inputs and outputs: fewer than a tile, more than are summed over or packed at a time, and whole tiles."""


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(autouse=True)
def _compiled(compiled: None) -> None:
    assert training_kernels.float32_library() is not None


@pytest.fixture
def products() -> None:
    """Below AVX2 PyTorch's products are used."""
    if not reaches(level(), "avx2"):
        pytest.skip(f"kernels of level '{level()}' have no float32 products")


@pytest.fixture(params=[1, 2, 3, 5])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def close(found: Tensor, exact: Tensor, terms: int) -> None:
    torch.testing.assert_close(found.double(), exact, rtol=1e-5, atol=1e-6 * terms)


@pytest.mark.usefixtures("products")
@pytest.mark.parametrize(("rows", "n_in", "n_out"), SIZES)
def test_products_are_those_of_float64(rows: int, n_in: int, n_out: int) -> None:
    x, weight, bias, out = random(rows, n_in), random(n_in, n_out, seed=1), random(n_out, seed=2), torch.empty(rows, n_out)
    exact = x.double() @ weight.double()
    matmul.multiply(x, weight, out, bias)
    close(out, exact + bias.double(), n_in)
    matmul.multiply(x, weight.t().contiguous(), out, transposed=True)
    close(out, exact, n_in)


@pytest.mark.usefixtures("products")
@pytest.mark.parametrize(("rows", "n_in", "n_out"), SIZES)
@pytest.mark.parametrize("add", [False, True])
def test_gradients_by_weights_are_those_of_float64(rows: int, n_in: int, n_out: int, add: bool) -> None:
    x, by_out = random(rows, n_in), random(rows, n_out, seed=1)
    by_weight, by_bias = torch.full((n_in, n_out), 3.0), torch.full((n_out,), 5.0)
    matmul.add_gradient(x, by_out, by_weight, by_bias, add)
    close(by_weight, x.double().t() @ by_out.double() + 3 * add, rows)
    close(by_bias, by_out.double().sum(0) + 5 * add, rows)


@pytest.mark.usefixtures("products")
def test_nothing_is_read_or_written_beside_the_columns_asked_for_or_behind_the_workspace(
    threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    guarded: list[Tensor] = []

    def workspace_before_a_guard(like: Tensor, *sizes: int) -> Tensor:
        needed = own_workspace(like, *sizes).numel()
        guarded.append(torch.full((needed + 1024,), 171.0))
        return guarded[-1][:needed]

    own_workspace = matmul._float32_workspace
    monkeypatch.setattr(matmul, "_float32_workspace", workspace_before_a_guard)
    wide, weight, out = random(300, 77), random(70, 130, seed=1), torch.full((300, 150), 7.0)
    wide[:, 70:] = torch.nan
    matmul.multiply(wide, weight, out[:, :130])
    close(out[:, :130], wide[:, :70].double() @ weight.double(), 70)
    by_weight = torch.empty(70, 130)
    matmul.add_gradient(wide, out[:, :130].contiguous(), by_weight, None, add=False)
    assert by_weight.isfinite().all() and (out[:, 130:] == 7).all()
    assert len(guarded) == 2 and all((memory[-1024:] == 171).all() for memory in guarded)


def layer_norm_and_gradients(rows: int, width: int, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    """Its output and the gradients by x, weight and bias."""
    norm, x, outer = LayerNorm(width), random(rows, width).add(0.7).to(dtype).requires_grad_(), random(rows, width, seed=3)
    norm.weight.data, norm.bias.data = random(width, seed=1), random(width, seed=2)
    norm.to(dtype)
    out = norm(x)
    return [out, *torch.autograd.grad(out, (x, norm.weight, norm.bias), outer.to(dtype))]


@pytest.mark.parametrize(("rows", "width"), [(1, 1), (1, 33), (3, 16), (70, 31), (101, 130), (333, 768)])
def test_layer_norm_and_its_gradients_are_those_of_float64(rows: int, width: int) -> None:
    found, exact = (layer_norm_and_gradients(rows, width, dtype) for dtype in (torch.float32, torch.float64))
    assert [type(one[0].grad_fn).__name__ for one in (found, exact)] == ["_LayerNormBackward", "NativeLayerNormBackward0"]
    for one, other in zip(found, exact, strict=True):
        torch.testing.assert_close(one.double(), other, rtol=1e-5, atol=1e-5 * math.sqrt(rows))


@pytest.mark.parametrize("trained", [(), ("weight",), ("bias",)])
def test_a_layer_norm_that_is_frozen_in_part_has_the_gradients_that_are_asked_for(trained: tuple[str, ...]) -> None:
    gradients = []
    for layer in (LayerNorm(24), torch.nn.LayerNorm(24)):
        x = random(5, 24).requires_grad_()
        for name, parameter in layer.named_parameters():
            parameter.requires_grad_(name in trained)
        layer(x).backward(random(5, 24, seed=1))
        gradients.append([x.grad, layer.weight.grad, layer.bias.grad])
    for one, other in zip(*gradients, strict=True):
        assert (one is None) == (other is None)
        if one is not None and other is not None:
            torch.testing.assert_close(one, other)


def test_what_layer_norm_gives_to_its_parameters_is_added_up_where_their_gradients_are() -> None:
    norm, x, outer = LayerNorm(40), random(90, 40).requires_grad_(), random(90, 40, seed=1)
    expected = [2 * part for part in torch.autograd.grad(norm(x), (norm.weight, norm.bias), outer)]
    for parameter in norm.parameters():
        sum_gradients_of(parameter, parameter)
    for _ in range(2):
        norm(x).backward(outer)
    torch.testing.assert_close([norm.weight.grad, norm.bias.grad], expected)


def squares(tensors: list[Tensor]) -> Tensor:
    sums = torch.empty(len(tensors), dtype=torch.float64)
    training_kernels.sums_of_squares(tensors, sums)
    return sums


@pytest.mark.parametrize("sizes", [(1,), (0, 4095, 17), (200_001, 5), (1_000_003,)])
def test_the_sums_of_squares_of_large_tensors_are_those_of_float64(sizes: tuple[int, ...]) -> None:
    tensors = [random(size, seed=size) for size in sizes]
    exact = torch.stack([tensor.double().square().sum() for tensor in tensors])
    torch.testing.assert_close(squares(tensors), exact, rtol=1e-6, atol=0)
    tensors[-1][-1] = torch.inf
    assert squares(tensors)[-1].isinf()


def results() -> list[Tensor]:
    x, weight, bias = random(131, 700).requires_grad_(), random(700, 203, seed=1).requires_grad_(), random(203, seed=2)
    activated = gelu(linear(x, weight, bias))
    loss = linear_cross_entropy(activated, random(301, 203, seed=3), torch.arange(131))
    broad = linear(random(270, 60), random(60, 530), random(530))  # its rows are packed
    others = [*layer_norm_and_gradients(301, 130), squares([random(300_001)]), broad]
    return [activated, loss, *torch.autograd.grad(loss, (x, weight)), *others]


def test_any_number_of_threads_gives_the_same_bits(threads: int) -> None:
    shared = results()
    torch.set_num_threads(1)
    assert all(map(torch.equal, shared, results()))


def test_gelu_and_its_gradient_are_those_of_float64() -> None:
    x, outer = (3 * random(50_001)).requires_grad_(), random(50_001, seed=1)
    exact = x.detach().double().requires_grad_()
    found, expected = gelu(x), F.gelu(exact, approximate="tanh")
    assert found.grad_fn is not None and "_Gelu" in type(found.grad_fn).__name__
    close(found, expected, 1)
    close(*torch.autograd.grad(found, x, outer), *torch.autograd.grad(expected, exact, outer.double()), 5)


def test_the_loss_and_its_gradients_are_those_of_float64() -> None:
    hidden, weight, targets = random(70, 48).requires_grad_(), random(1001, 48, seed=1).requires_grad_(), torch.arange(70) * 3
    targets[5::7] = -100
    found = linear_cross_entropy(hidden, weight, targets)
    exact = [part.detach().double().requires_grad_() for part in (hidden, weight)]
    expected = F.cross_entropy(exact[0] @ exact[1].t(), targets)
    close(found, expected, 1)
    for one, other in zip(torch.autograd.grad(found, (hidden, weight)), torch.autograd.grad(expected, exact), strict=True):
        close(one, other, 1)


def test_an_update_in_one_pass_is_adamws_where_no_copy_follows() -> None:
    ours, theirs = ([random(size, seed=2).requires_grad_() for size in (1, 17, 4097)] for _ in range(2))
    options = {"lr": 0.01, "betas": (0.9, 0.95), "eps": 1e-8, "weight_decay": 0.1}
    one_pass, reference = OnePassAdamW(ours, {}, **options), torch.optim.AdamW(theirs, **options)
    for step in range(3):
        for mine, other in zip(ours, theirs, strict=True):
            mine.grad = other.grad = random(len(mine), seed=step)
        one_pass.step()
        reference.step()
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, rtol=2e-6, atol=2e-7)
