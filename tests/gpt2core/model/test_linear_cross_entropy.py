"""The chunked loss against plain cross-entropy over all logits."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from gpt2core.kernels import matmul
from gpt2core.model.config import GPT2Config
from gpt2core.model.gpt2 import GPT2
from gpt2core.model.linear_cross_entropy import CHUNK, OWN_CHUNK, linear_cross_entropy

pytestmark = pytest.mark.kernels


def case(rows: int, width: int, vocabulary: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(rows + vocabulary)
    hidden = torch.randn(rows, width, generator=generator).to(dtype).requires_grad_()
    weight = torch.randn(vocabulary, width, generator=generator).mul(0.3).to(dtype).requires_grad_()
    return hidden, weight, torch.randint(vocabulary, (rows,), generator=generator)


def gradients(loss: Tensor, *inputs: Tensor) -> tuple[Tensor, ...]:
    return torch.autograd.grad(loss * 0.5, inputs)  # an outer factor, as accumulation has one


@pytest.mark.parametrize(("rows", "vocabulary"), [(1, 7), (CHUNK - 1, 50), (CHUNK, 64), (CHUNK + 1, 65), (3 * CHUNK + 5, 501)])
def test_loss_and_gradients_are_those_of_plain_cross_entropy(rows: int, vocabulary: int) -> None:
    hidden, weight, targets = case(rows, 12, vocabulary)
    targets[1::3] = -100
    expected = F.cross_entropy(hidden @ weight.t(), targets)
    found = linear_cross_entropy(hidden, weight, targets)
    assert abs(found.item() - expected.item()) < 1e-6
    for one, other in zip(gradients(found, hidden, weight), gradients(expected, hidden, weight), strict=True):
        assert (one - other).abs().max() < 1e-6


@pytest.mark.parametrize(("rows", "width", "vocabulary"), [(1, 1, 2), (1, 3, 50257), (7, 5, 3), (2 * CHUNK - 1, 33, 127)])
def test_odd_sizes_and_a_single_token_are_as_exact(rows: int, width: int, vocabulary: int) -> None:
    hidden, weight, targets = case(rows, width, vocabulary)
    expected, found = F.cross_entropy(hidden @ weight.t(), targets), linear_cross_entropy(hidden, weight, targets)
    assert abs(found.item() - expected.item()) < 1e-6 * max(1.0, expected.item())
    for one, other in zip(gradients(found, hidden, weight), gradients(expected, hidden, weight), strict=True):
        assert (one - other).abs().max() < 1e-6


def test_a_model_with_a_batch_of_one_token_has_the_gradients_of_plain_cross_entropy() -> None:
    model, twin = (GPT2(GPT2Config(11, 4, 8, 2, 1)).initialise(0) for _ in range(2))
    token, target = torch.tensor([[3]]), torch.tensor([[7]])
    model.loss(token, target).backward()
    F.cross_entropy(twin(token)[:, 0], target[0]).backward()
    for (name, one), other in zip(model.named_parameters(), twin.parameters(), strict=True):
        assert (one.grad - other.grad).abs().max() < 1e-6, name


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_padded_targets_and_a_padded_vocabulary_change_no_logits_and_no_gradients(dtype: torch.dtype) -> None:
    """65 entries are padded to 128 in bfloat16; three more positions without targets, as behind the end of a text."""
    model, twin = (GPT2(GPT2Config(65, 8, 16, 2, 2)).initialise(0).to(dtype) for _ in range(2))
    tokens, targets = torch.arange(5)[None], torch.arange(1, 6)[None]
    longer = torch.cat([tokens, torch.zeros(1, 3, dtype=torch.int64)], 1)
    ignored = torch.cat([targets, torch.full((1, 3), -100)], 1)
    tolerance = 1e-6 if dtype is torch.float32 else 2e-2
    assert model(longer).shape == (1, 8, 65)
    assert (model(longer)[:, :5] - model(tokens)).abs().max() < tolerance
    model.loss(longer, ignored).backward()
    F.cross_entropy(twin(tokens)[0], targets[0]).backward()
    for (name, one), other in zip(model.named_parameters(), twin.parameters(), strict=True):
        assert (one.grad - other.grad).abs().max() <= tolerance * max(1.0, other.grad.abs().max().item()), name


def test_without_gradients_the_loss_is_the_same() -> None:
    hidden, weight, targets = case(300, 12, 77)
    with torch.no_grad():
        assert torch.equal(linear_cross_entropy(hidden, weight, targets), linear_cross_entropy(hidden, weight, targets))
        assert linear_cross_entropy(hidden, weight, targets).item() == pytest.approx(
            F.cross_entropy(hidden @ weight.t(), targets).item(), abs=1e-6
        )


def test_with_all_targets_ignored_loss_and_gradients_are_zero() -> None:
    hidden, weight, targets = case(5, 12, 77)
    loss = linear_cross_entropy(hidden, weight, torch.full_like(targets, -100))
    assert loss.item() == 0.0
    assert all(not gradient.any() for gradient in gradients(loss, hidden, weight))


def test_a_target_whose_probability_underflows_keeps_its_loss() -> None:
    hidden = torch.tensor([[1.0]], requires_grad=True)
    weight = torch.tensor([[0.0], [500.0]], requires_grad=True)
    assert linear_cross_entropy(hidden, weight, torch.tensor([0])).item() == 500.0


@pytest.mark.parametrize("wanted", [0, 1])
def test_only_the_wanted_gradient_is_made(wanted: int) -> None:
    hidden, weight, targets = case(20, 12, 77)
    inputs = [hidden, weight]
    inputs[1 - wanted].requires_grad_(False)
    expected = gradients(F.cross_entropy(hidden @ weight.t(), targets), inputs[wanted])
    found = gradients(linear_cross_entropy(hidden, weight, targets), inputs[wanted])
    torch.testing.assert_close(found[0], expected[0], atol=1e-6, rtol=0)


@pytest.mark.parametrize("vocabulary", [1, 63, 64, 65, 257])
def test_padding_the_vocabulary_in_bfloat16_changes_nothing_but_the_rounding(vocabulary: int) -> None:
    hidden, weight, targets = case(40, 16, vocabulary, torch.bfloat16)
    exact = [part.detach().float().requires_grad_() for part in (hidden, weight)]
    expected = F.cross_entropy(exact[0] @ exact[1].t(), targets)
    found = linear_cross_entropy(hidden, weight, targets)
    assert found.item() == pytest.approx(expected.item(), abs=0.01)
    for one, other in zip(gradients(found, hidden, weight), gradients(expected, *exact), strict=True):
        assert one.shape == other.shape
        assert (one.float() - other).norm() <= 0.01 * other.norm()


class LargestTensor(TorchDispatchMode):
    """Notes the largest tensor that any operation makes."""

    elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if isinstance(out, Tensor):
            self.elements = max(self.elements, out.numel())
        return out


def test_the_loss_never_holds_all_logits() -> None:
    hidden, weight, targets = case(5 * CHUNK, 8, 1000)
    with LargestTensor() as seen:
        linear_cross_entropy(hidden, weight, targets).backward()
    assert seen.elements == (OWN_CHUNK if matmul.supports(hidden) else CHUNK) * 1000
