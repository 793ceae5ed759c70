"""The compiled attention against its formula in float64, in both dtypes, whole windows and documents that share one."""

import subprocess
import sys

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from gpt2core.kernels import causal_attention
from gpt2core.memory.dry_run import MemoryLedger
from gpt2core.model.attention import attend_within
from gpt2core.model.document_mask import DocumentMask, document_mask

pytestmark = pytest.mark.kernels

SIZES = [(1, 1, 1, 16), (3, 5, 2, 32), (2, 17, 3, 16), (1, 67, 2, 80), (2, 257, 2, 64)]
"""Windows, positions, heads and their size, which no block divides evenly."""
TOLERANCE = {torch.bfloat16: 2**-8, torch.float32: 1e-6}


@pytest.fixture(params=[torch.bfloat16, torch.float32], ids=["bfloat16", "float32"])
def dtype(request: pytest.FixtureRequest, compiled: None) -> torch.dtype:
    """Each that has a kernel at this level."""
    found: torch.dtype = request.param
    if not causal_attention.supports(torch.empty(1, 2, 3, 1, 16, dtype=found)):
        pytest.skip(f"kernels of this level have no attention in {found}")
    return found


def random(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def formula(heads: Tensor, visible: Tensor) -> Tensor:
    query, key, value = heads.permute(2, 0, 3, 1, 4).unbind()
    scores = (query @ key.mT / heads.shape[-1] ** 0.5).masked_fill(~visible, -torch.inf)
    return (scores.softmax(-1) @ value).transpose(1, 2)


def assert_right(heads: Tensor, mask: DocumentMask | None, visible: Tensor) -> None:
    outer, exact = random(*heads[:, :, 0].shape, dtype=heads.dtype, seed=1), heads.double().requires_grad_()
    heads, most = heads.requires_grad_(), TOLERANCE[heads.dtype]
    found, expected = attend_within(heads, 0.0, mask), formula(exact, visible)
    assert found.grad_fn is not None and "CausalAttention" in type(found.grad_fn).__name__
    (by_heads,), (exactly,) = torch.autograd.grad(found, heads, outer), torch.autograd.grad(expected, exact, outer.double())
    for one, other in ((found, expected), (by_heads, exactly)):
        assert (one.double() - other).norm() <= most * other.norm()
        assert (one.double() - other).abs().max() <= 4 * most * other.abs().max()


@pytest.mark.parametrize(("batch", "length", "n_head", "size"), SIZES)
def test_attention_and_its_gradient_are_those_of_the_formula(
    batch: int, length: int, n_head: int, size: int, dtype: torch.dtype
) -> None:
    assert_right(random(batch, length, 3, n_head, size, dtype=dtype), None, torch.ones(length, length).tril().bool())


@pytest.mark.parametrize("size", [1, 3, 8, 40, 100])
def test_in_float32_a_head_has_any_size(size: int, dtype: torch.dtype) -> None:
    if dtype is torch.float32:
        assert_right(random(2, 70, 3, 3, size), None, torch.ones(70, 70).tril().bool())


@pytest.mark.parametrize("length", [1, 7, 64, 193, 300])
@pytest.mark.parametrize("documents", [1, 3, 40])
def test_a_document_sees_itself_alone(length: int, documents: int, dtype: torch.dtype) -> None:
    if dtype is torch.bfloat16:
        assert not causal_attention.supports(torch.empty(1, 2, 3, 1, 16, dtype=dtype), documents=True)
        return
    tokens = torch.randint(max(1, length // documents), (2, length), generator=torch.Generator().manual_seed(length))
    mask = document_mask(tokens, end_of_text=0)
    assert_right(random(2, length, 3, 2, 24), mask, mask.visible)


def test_scores_far_apart_neither_overflow_nor_vanish(dtype: torch.dtype) -> None:
    heads = 30 * random(1, 90, 3, 2, 16)
    found = attend_within(heads.to(dtype), 0.0)
    expected = formula(heads.to(dtype).double(), torch.ones(90, 90).tril().bool())
    assert (found.double() - expected).norm() <= 4 * TOLERANCE[dtype] * expected.norm()


SHORT_OF_MEMORY = """
import resource
import psutil, torch
from gpt2core.kernels import causal_attention
from gpt2core.machine.memory import is_out_of_memory

heads = torch.randn(1, 8192, 3, 1, 16).bfloat16()
mixed = heads.new_empty(1, 8192, 1, 16)
sums = causal_attention.attention(heads, mixed)
limit = psutil.Process().memory_info().vms + 200_000_000  # all weights of a head take 270 MB in backward
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
try:
    causal_attention.attention_backward(heads, mixed, sums, mixed, torch.empty_like(heads))
except RuntimeError as error:
    assert is_out_of_memory(error), error
    print("refused")
"""


@pytest.mark.usefixtures("cpu_with_pairs")
def test_attention_without_memory_is_an_error_and_no_crash() -> None:
    done = subprocess.run([sys.executable, "-c", SHORT_OF_MEMORY], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "refused\n"), done.stderr


@pytest.mark.parametrize(("length", "size"), [(1, 16), (17, 48), (257, 64)])
@pytest.mark.parametrize("threads", [1, 2])
def test_attention_stays_within_the_room_that_a_rehearsal_counts(
    length: int, size: int, threads: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    rooms: list[Tensor] = []

    def room_before_a_guard(heads: Tensor, n_bytes: int) -> Tensor:
        rooms.append(torch.full((n_bytes * threads + 4096,), 171, dtype=torch.uint8))
        return rooms[-1][: n_bytes * threads].view(threads, n_bytes)

    heads = random(1, length, 3, 2, size, dtype=dtype).requires_grad_()
    expected = torch.autograd.grad(attend_within(heads, 0.0).sum(), heads)[0]
    monkeypatch.setattr(causal_attention, "_workspace", room_before_a_guard)
    found = torch.autograd.grad(attend_within(heads, 0.0).sum(), heads)[0]
    assert torch.equal(found, expected)
    assert len(rooms) == 2 and all((room[-4096:] == 171).all() for room in rooms)


@pytest.mark.usefixtures("cpu_with_pairs")
def test_a_rehearsal_counts_the_room_of_attention() -> None:
    with FakeTensorMode(), MemoryLedger() as ledger:
        heads = torch.empty(1, 512, 3, 1, 16, dtype=torch.bfloat16, requires_grad=True)
        attend_within(heads, 0.0).sum().backward()
    assert ledger.peak > 4 * 512 * 512  # weights and their gradients, bfloat16


def results(dtype: torch.dtype) -> list[Tensor]:
    heads = random(2, 100, 3, 3, 16, dtype=dtype).requires_grad_()
    mixed = attend_within(heads, 0.0)
    return [mixed, *torch.autograd.grad(mixed, heads, random(*mixed.shape, dtype=dtype, seed=1))]


@pytest.mark.parametrize("threads", [2, 3, 5])
def test_any_number_of_threads_gives_the_same_bits(threads: int, dtype: torch.dtype) -> None:
    alone = results(dtype)
    torch.set_num_threads(threads)
    shared = results(dtype)
    torch.set_num_threads(1)
    assert all(map(torch.equal, alone, shared))
