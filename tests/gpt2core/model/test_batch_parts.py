"""A batch computed in parts: the gradients of the whole, and the same bits by any number of threads."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from configs.schema import LoraSettings
from gpt2core.machine.python_threads import python_threads
from gpt2core.model.batch_parts import PARTS
from gpt2core.model.config import GPT2Config
from gpt2core.model.gpt2 import GPT2
from gpt2core.model.linear_cross_entropy import OWN_CHUNK, linear_cross_entropy
from gpt2core.model.lora import add_adapters

CONFIG = GPT2Config(53, 16, 24, 3, 2)


@pytest.fixture(autouse=True)
def pytorch_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where there is no compiler."""
    monkeypatch.setenv("GPT2FLOW_KERNELS", "none")


def batch(windows: int, config: GPT2Config = CONFIG) -> tuple[Tensor, Tensor]:
    tokens = torch.randint(config.n_vocab, (windows, config.n_ctx), generator=torch.Generator().manual_seed(windows))
    targets = tokens.roll(-1, 1)
    targets[:, ::5] = -100
    return tokens, targets


def gradients(model: GPT2, tokens: Tensor, targets: Tensor) -> list[Tensor]:
    """The loss and the gradient of everything that has one."""
    model.zero_grad()
    loss = model.loss(tokens, targets, model.mask_for(tokens))
    (loss / 3).backward()  # type: ignore[no-untyped-call]
    return [loss.detach(), *(parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None)]


@pytest.mark.parametrize("windows", [1, 3, PARTS, 11])
@pytest.mark.parametrize("kind", ["plain", "documents", "recomputed", "frozen", "adapters"])
def test_gradients_are_those_of_float64_and_the_same_bits_by_any_number_of_threads(windows: int, kind: str) -> None:
    model, exact = (GPT2(CONFIG).initialise(1).train() for _ in range(2))
    for one in (model, exact):
        one.separator = 7 if kind == "documents" else None
        one.recomputed = 1 if kind == "recomputed" else 0
        if kind in ("frozen", "adapters"):
            one.requires_grad_(False)
        if kind == "frozen":
            one.h[1].mlp.requires_grad_(True)  # the block before it and all embeddings stay as they are
        if kind == "adapters":
            add_adapters(one, LoraSettings(rank=2), 3)
    exact.double()
    model.by_parts = True
    expected, found = gradients(exact, *batch(windows)), gradients(model, *batch(windows))
    assert len(found) == len(expected) > 1
    for one, other in zip(found, expected, strict=True):
        assert (one - other).abs().max() <= 2e-6 * max(1.0, other.abs().max().item())
    for number in (2, 3, 4, 7):
        with python_threads(number):
            assert all(map(torch.equal, gradients(model, *batch(windows)), found)), number


@pytest.mark.parametrize(("rows", "vocabulary"), [(1, 2), (3, 7), (OWN_CHUNK + 5, 65), (2 * OWN_CHUNK, 301)])
def test_the_loss_in_parts_is_plain_cross_entropy(rows: int, vocabulary: int) -> None:
    generator = torch.Generator().manual_seed(rows)
    hidden, weight = (torch.randn(n, 12, generator=generator, requires_grad=True) for n in (rows, vocabulary))
    targets = torch.randint(vocabulary, (rows,), generator=generator)
    targets[1::3] = -100
    expected = F.cross_entropy(hidden.double() @ weight.double().t(), targets)
    with python_threads(2):
        found = linear_cross_entropy(hidden, weight, targets, by_parts=True)
    assert abs(found.item() - expected.item()) < 1e-6 * max(1.0, expected.item())
    inputs = (hidden, weight)
    for one, other in zip(torch.autograd.grad(found, inputs), torch.autograd.grad(expected, inputs), strict=True):
        assert (one - other).abs().max() < 1e-6


def test_only_training_with_gradients_is_cut() -> None:
    model, (tokens, targets) = GPT2(CONFIG).initialise(1), batch(5)
    whole = model.eval().loss(tokens, targets)
    model.by_parts = True
    assert torch.equal(model.loss(tokens, targets), whole)
    with torch.no_grad():
        assert torch.equal(model.train().loss(tokens, targets), whole)
