"""The compiled products against float64, for sizes that no tile divides evenly, and the layers that are built of them."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from gpt2core.kernels import matmul
from gpt2core.model.gradient_sums import sum_gradients_of
from gpt2core.model.linear import embedding, linear

pytestmark = pytest.mark.kernels

ROUNDING = 2**-8  # of a bfloat16, relative
SIZES = [(1, 2, 2), (3, 6, 10), (8, 16, 48), (37, 130, 50), (70, 64, 98), (2049, 34, 66), (19, 4098, 20), (33, 9000, 50)]
"""Rows, inputs and outputs: fewer than a tile, more than are summed over at a time, and whole tiles."""


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).bfloat16()


def assert_rounded(found: Tensor, exact: Tensor, terms: int) -> None:
    """Rounded once to bfloat16, from sums that were rounded as float32 sums are."""
    assert ((found.double() - exact).abs() <= ROUNDING * exact.abs() + 1e-6 * terms).all()


@pytest.fixture(autouse=True)
def _compiled(cpu_with_pairs: None) -> None:
    assert matmul.library() is not None
    if not matmul.supports(random(matmul.FEWEST_ROWS, 2)):
        pytest.skip("this CPU has AMX, which PyTorch's products use")


@pytest.fixture
def two_threads() -> Iterator[None]:
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(1)


@pytest.mark.parametrize(("rows", "n_in", "n_out"), SIZES)
def test_products_are_rounded_once(rows: int, n_in: int, n_out: int) -> None:
    x, weight, bias, out = random(rows, n_in), random(n_in, n_out, seed=1), random(n_out, seed=2), random(rows, n_out)
    matmul.multiply(x, weight, out, bias)
    assert_rounded(out, x.double() @ weight.double() + bias.double(), n_in)
    matmul.multiply(x, weight.t().contiguous(), out, transposed=True)
    assert_rounded(out, x.double() @ weight.double(), n_in)


@pytest.mark.parametrize(("rows", "n_in", "n_out"), SIZES)
@pytest.mark.parametrize("add", [False, True])
def test_gradients_by_weights_are_sums_in_float32(rows: int, n_in: int, n_out: int, add: bool) -> None:
    x, by_out = random(rows, n_in), random(rows, n_out, seed=1)
    by_weight, by_bias = torch.full((n_in, n_out), 3.0), torch.full((n_out,), 5.0)
    matmul.add_gradient(x, by_out, by_weight, by_bias, add)
    close = {"rtol": 1e-5, "atol": 1e-6 * rows}
    exact = x.double().t() @ by_out.double() + 3 * add
    torch.testing.assert_close(by_weight.double(), exact, **close)
    torch.testing.assert_close(by_bias.double(), by_out.double().sum(0) + 5 * add, **close)


def test_only_the_columns_asked_for_are_read_and_written() -> None:
    wide, weight = random(40, 12), random(7, 20, seed=1)
    wide[:, 8:] = torch.nan
    wide[:, 7] = 1.0  # what an odd number of inputs is filled up with, which weighs nothing
    out = torch.full((40, 32), 7.0).bfloat16()
    matmul.multiply(wide, weight, out[:, :20])
    assert_rounded(out[:, :20], wide[:, :7].double() @ weight.double(), 7)
    assert (out[:, 20:] == 7).all()


def results() -> list[Tensor]:
    x, weight, out, by_out = random(300, 5000), random(5000, 200, seed=1), random(300, 200), random(300, 200, seed=2)
    matmul.multiply(x, weight, out)
    by_weight, by_bias = torch.empty(5000, 200), torch.empty(200)
    matmul.add_gradient(x, by_out, by_weight, by_bias, add=False)
    return [out, by_weight, by_bias]


def test_any_number_of_threads_gives_the_same_bits(request: pytest.FixtureRequest) -> None:
    alone = results()
    request.getfixturevalue("two_threads")
    for _ in range(3):  # who makes which block is chance
        assert all(map(torch.equal, alone, results()))


def layer(followed: bool) -> tuple[list[Tensor], list[Tensor]]:
    """Copies of weight and bias, and their float32 originals, whose gradients are added up there if they are followed."""
    copies = [random(64, 96, seed=1).requires_grad_(), random(96, seed=2).requires_grad_()]
    originals = [copied.detach().float() for copied in copies]
    if followed:
        for copied, own in zip(copies, originals, strict=True):
            sum_gradients_of(copied, own)
    return copies, originals


@pytest.mark.parametrize("trained", [(True, True), (True, False), (False, True), (False, False)])
def test_a_layer_has_the_gradients_of_its_formula_whatever_is_trained(trained: tuple[bool, bool]) -> None:
    (weight, bias), _ = layer(followed=False)
    for parameter, wanted in zip((weight, bias), trained, strict=True):
        parameter.requires_grad_(wanted)
    x, outer = random(2, 20, 64).requires_grad_(), random(2, 20, 96, seed=3)
    exact = [part.detach().double().requires_grad_(part.requires_grad) for part in (x, weight, bias)]
    expected = exact[0] @ exact[1] + exact[2]
    found = linear(x, weight, bias)
    assert_rounded(found, expected, 64)
    found.backward(outer)
    expected.backward(outer.double())
    for part, other in zip((x, weight, bias), exact, strict=True):
        assert (part.grad is None) == (other.grad is None)
        if part.grad is not None:
            assert_rounded(part.grad, other.grad, 96)


def test_gradients_of_a_followed_layer_are_added_in_float32_and_never_rounded() -> None:
    (weight, bias), originals = layer(followed=True)
    inputs, outer = [random(40, 64, seed=seed) for seed in (4, 5)], random(40, 96, seed=3)
    for x in inputs:
        linear(x, weight, bias).backward(outer)
    assert weight.grad is None and bias.grad is None
    exact = sum(x.double() for x in inputs).t() @ outer.double()
    torch.testing.assert_close(originals[0].grad.double(), exact, rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(originals[1].grad.double(), 2 * outer.double().sum(0), rtol=1e-5, atol=1e-4)


def test_the_first_gradient_after_a_restart_replaces_what_was_there() -> None:
    copied = random(8, 4).requires_grad_()
    own = copied.detach().float()
    total = sum_gradients_of(copied, own)
    for _ in range(2):
        total.restart()
        (3 * copied).sum().backward()
        (2 * copied).sum().backward()
        assert torch.equal(own.grad, torch.full((8, 4), 5.0)) and copied.grad is None
    total.restart()
    given = torch.ones(8, 4)
    total.add(given)
    assert own.grad is given


def test_embeddings_add_gradients_to_the_rows_that_were_looked_up() -> None:
    copied = random(11, 6).requires_grad_()
    own, tokens, outer = copied.detach().float(), torch.tensor([[3, 0, 3], [10, 3, 1]]), random(2, 3, 6, seed=1)
    sum_gradients_of(copied, own)
    embedding(tokens, copied).backward(outer)
    exact = F.one_hot(tokens.flatten(), 11).double().t() @ outer.flatten(0, 1).double()
    torch.testing.assert_close(own.grad.double(), exact, rtol=1e-6, atol=1e-6)
