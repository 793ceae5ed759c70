"""The compiled parts of a bfloat16 step against their formulas in float64, for sizes that no vector divides evenly.

Also tests `gpt2core.kernels.operators`.
"""

import subprocess
import sys

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F

from gpt2core.kernels import training_kernels
from gpt2core.memory.dry_run import MemoryLedger
from gpt2core.model.attention import attend_within
from gpt2core.model.config import GPT2Config
from gpt2core.model.gelu import gelu
from gpt2core.model.gpt2 import GPT2
from gpt2core.model.linear_cross_entropy import linear_cross_entropy
from gpt2core.training.one_pass_adamw import OnePassAdamW

pytestmark = pytest.mark.kernels

ROUNDING = 2**-8  # of a bfloat16, relative
SIZES = [1, 15, 16, 17, 4096, 4097, 50_001]


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).bfloat16()


def assert_rounded(found: Tensor, exact: Tensor, spare: float = 1e-6) -> None:
    assert ((found.double() - exact).abs() <= ROUNDING * exact.abs() + spare).all()


@pytest.fixture(autouse=True)
def _compiled(compiled: None) -> None:
    assert training_kernels.library() is not None


@pytest.mark.parametrize("size", SIZES)
def test_gelu_and_its_gradient_are_rounded_once(size: int) -> None:
    x, outer = (3 * random(size)).requires_grad_(), random(size, seed=1)
    exact = x.detach().double().requires_grad_()
    found, expected = gelu(x), F.gelu(exact, approximate="tanh")
    assert_rounded(found, expected)
    (by_input,) = torch.autograd.grad(found, x, outer)
    assert_rounded(by_input, torch.autograd.grad(expected, exact, outer.double())[0])


def test_gelu_takes_every_number_and_no_number() -> None:
    every = torch.arange(-(2**15), 2**15).to(torch.int16).view(torch.bfloat16)
    found, expected = gelu(every), F.gelu(every.double(), approximate="tanh")
    assert_rounded(found[every.isfinite()], expected[every.isfinite()])
    assert torch.equal(found.isnan(), every.isnan() | (every == -torch.inf))


@pytest.mark.usefixtures("cpu_with_pairs")
@pytest.mark.parametrize(
    ("batch", "length", "n_head", "size"), [(1, 1, 1, 16), (3, 5, 2, 32), (2, 17, 3, 16), (1, 67, 2, 80), (2, 257, 2, 64)]
)
def test_attention_and_its_gradient_are_those_of_the_formula(batch: int, length: int, n_head: int, size: int) -> None:
    heads, outer = random(batch, length, 3, n_head, size).requires_grad_(), random(batch, length, n_head, size, seed=1)
    exact = heads.detach().double().requires_grad_()
    query, key, value = exact.permute(2, 0, 3, 1, 4).unbind()
    later = torch.ones(length, length).triu(1).bool()
    scores = (query @ key.mT / size**0.5).masked_fill(later, -torch.inf)
    found, expected = attend_within(heads, 0.0), (scores.softmax(-1) @ value).transpose(1, 2)
    assert found.grad_fn is not None and "CausalAttention" in type(found.grad_fn).__name__
    (by_heads,), (exactly,) = torch.autograd.grad(found, heads, outer), torch.autograd.grad(expected, exact, outer.double())
    for one, other in ((found, expected), (by_heads, exactly)):
        assert (one.double() - other).norm() <= ROUNDING * other.norm()
        assert (one.double() - other).abs().max() <= 4 * ROUNDING * other.abs().max()


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


SHORT_OF_MEMORY = """
import resource
import psutil, torch
from gpt2core.kernels import training_kernels
from gpt2core.machine.memory import is_out_of_memory

heads = torch.randn(1, 8192, 3, 1, 16).bfloat16()
mixed = heads.new_empty(1, 8192, 1, 16)
training_kernels.attention(heads, mixed)
limit = psutil.Process().memory_info().vms + 200_000_000  # all weights of a head take 270 MB in backward
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
try:
    training_kernels.attention_backward(heads, mixed, torch.empty_like(heads))
except RuntimeError as error:
    assert is_out_of_memory(error), error
    print("refused")
"""


@pytest.mark.usefixtures("cpu_with_pairs")
def test_attention_without_memory_is_an_error_and_no_crash() -> None:
    done = subprocess.run([sys.executable, "-c", SHORT_OF_MEMORY], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "refused\n"), done.stderr


@pytest.mark.usefixtures("cpu_with_pairs")
@pytest.mark.parametrize(("length", "size"), [(1, 16), (17, 48), (257, 64)])
@pytest.mark.parametrize("threads", [1, 2])
def test_attention_stays_within_the_room_that_a_rehearsal_counts(
    length: int, size: int, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    rooms: list[Tensor] = []

    def room_before_a_guard(heads: Tensor, n_bytes: int) -> Tensor:
        rooms.append(torch.full((n_bytes * threads + 4096,), 171, dtype=torch.uint8))
        return rooms[-1][: n_bytes * threads].view(threads, n_bytes)

    heads = random(1, length, 3, 2, size).requires_grad_()
    expected = torch.autograd.grad(attend_within(heads, 0.0).sum(), heads)[0]
    monkeypatch.setattr(training_kernels, "_workspace", room_before_a_guard)
    found = torch.autograd.grad(attend_within(heads, 0.0).sum(), heads)[0]
    assert torch.equal(found, expected)
    assert len(rooms) == 2 and all((room[-4096:] == 171).all() for room in rooms)


def test_a_rehearsal_counts_the_room_of_attention() -> None:
    with FakeTensorMode(), MemoryLedger() as ledger:
        heads = torch.empty(1, 512, 3, 1, 16, dtype=torch.bfloat16, requires_grad=True)
        attend_within(heads, 0.0).sum().backward()
    assert ledger.peak > 4 * 512 * 512  # weights and their gradients, bfloat16


def test_any_number_of_threads_gives_the_same_bits() -> None:
    alone = results()
    torch.set_num_threads(2)
    shared = results()
    torch.set_num_threads(1)
    assert all(torch.equal(one, other) for one, other in zip(alone, shared, strict=True))


def results() -> list[Tensor]:
    x = random(SIZES[-1]).requires_grad_()
    activated = gelu(x)
    heads = random(2, 100, 3, 3, 16).requires_grad_()
    mixed = attend_within(heads, 0.0)
    attention = [mixed, *torch.autograd.grad(mixed, heads, random(*mixed.shape))]
    return [*attention, *loss_and_gradients(torch.bfloat16), activated, *torch.autograd.grad(activated.sum(), x)]


def test_without_a_compiler_a_model_has_the_same_gradients_within_rounding(model: GPT2, request: pytest.FixtureRequest) -> None:
    compiled = gradients(model)
    request.getfixturevalue("no_compiler")
    assert training_kernels.library() is None
    plain = gradients(model)
    assert compiled[0].item() == pytest.approx(plain[0].item(), rel=2e-3)
    one, other = (torch.cat([part.flatten().float() for part in found[1:]]) for found in (compiled, plain))
    assert (one - other).norm() <= 0.02 * other.norm()
