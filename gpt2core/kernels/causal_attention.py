"""Calls causal_attention_bfloat16.c and causal_attention_float32.c: attention of whole windows, on a CPU with a C compiler.

Callers ask `supports` first, and have a way in PyTorch otherwise. Shapes: B batch, T positions, H heads, D head size.
"""

from __future__ import annotations

import torch
from torch import Tensor

from gpt2core.kernels import training_kernels
from gpt2core.kernels.c_library import COUNT, POINTER, CLibrary, address
from gpt2core.kernels.operators import operator

BFLOAT16: dict[str, list[type]] = {"attention": [POINTER] * 4 + [COUNT] * 6}
FLOAT32: dict[str, list[type]] = {"attention": [POINTER] * 7 + [COUNT] * 6, "attention_bytes": [COUNT] * 3}
ROWS = 6
"""Queries that are taken together in bfloat16, as causal_attention_bfloat16.c says."""
LONGEST_BFLOAT16 = 512
"""Positions up to which bfloat16 is faster than PyTorch: it has room for the square of them."""

library = CLibrary("causal_attention_bfloat16", BFLOAT16, least="bf16")
float32_library = CLibrary("causal_attention_float32", FLOAT32, least="avx2")


def supports(heads: Tensor, documents: bool = False) -> bool:
    """Whether `attention` takes heads [B, T, 3, H, D], of documents that are kept apart or not.

    In bfloat16 D has to be a multiple of 16, and there is nothing for documents. Below AVX2 PyTorch is faster.
    """
    if not training_kernels.supports(heads):
        return False
    if heads.dtype is torch.float32:
        return float32_library() is not None
    fits = heads.shape[-1] % 16 == 0 and heads.shape[1] <= LONGEST_BFLOAT16
    return fits and not documents and library() is not None


def attention(heads: Tensor, out: Tensor, positions: Tensor | None = None) -> Tensor:
    """Causal attention of queries, keys and values [B, T, 3, H, D] into `out` [B, T, H, D].

    `positions` int64 [B, T] say where each token stands in its own document, and it sees no others. Returns what
    `attention_backward` needs besides: float32 [B, H, T], or nothing in bfloat16. Raises PyTorch's error where there is no
    memory for its passing results.
    """
    if heads.dtype is torch.float32:
        batch, length, _, n_head, _ = heads.shape
        log_sums = heads.new_empty(batch, n_head, length)
        _attention_float32(heads, positions, out, log_sums, _float32_workspace(heads, backward=False))
        return log_sums
    width, pairs, size = _extent(heads)
    _attention(heads, None, out, _workspace(heads, 2 * size * width + 4 * size * pairs + ROWS * (6 * width + 4 * size)))
    return heads.new_empty(0, dtype=torch.float32)


def attention_backward(
    heads: Tensor, out: Tensor, log_sums: Tensor, by_out: Tensor, by_heads: Tensor, positions: Tensor | None = None
) -> None:
    """The gradient by the heads, where that by `out` is given; raises as `attention` does."""
    if heads.dtype is torch.float32:
        workspace = _float32_workspace(heads, backward=True)
        _attention_backward_float32(heads, positions, out, log_sums, by_out, by_heads, workspace)
        return
    width, pairs, size = _extent(heads)
    packed, squares = 4 * size * width + 12 * size * pairs, 8 * (pairs + ROWS) * width
    _attention(heads, by_out, by_heads, _workspace(heads, packed + squares + ROWS * (12 * width + 4 * size)))


def _extent(heads: Tensor) -> tuple[int, int, int]:
    """Positions filled up to whole vectors and one more, pairs of positions, and size of a head."""
    length, size = heads.shape[1], heads.shape[-1]
    return -(-length // 16) * 16 + 16, (length + 1) // 2, size


def _float32_workspace(heads: Tensor, backward: bool) -> Tensor:
    compiled = float32_library()
    assert compiled is not None
    return _workspace(heads, compiled.attention_bytes(heads.shape[1], heads.shape[-1], backward))


def _workspace(heads: Tensor, n_bytes: int) -> Tensor:
    """So many bytes for each thread, uint8 [threads, bytes]: of PyTorch, so that their lack is its error and they count."""
    whole_lines = -(-n_bytes // 64) * 64
    threads = min(torch.get_num_threads(), heads.shape[0] * heads.shape[3])
    return heads.new_empty((threads, whole_lines), dtype=torch.uint8)


@operator("out", "workspace")
def _attention(heads: Tensor, by_out: Tensor | None, out: Tensor, workspace: Tensor) -> None:
    compiled, (batch, length, _, n_head, size) = library(), heads.shape
    assert compiled is not None
    compiled.attention(*map(address, (heads, by_out, out, workspace)), batch, length, n_head, size, *workspace.shape)


@operator("out", "log_sums", "workspace")
def _attention_float32(heads: Tensor, positions: Tensor | None, out: Tensor, log_sums: Tensor, workspace: Tensor) -> None:
    _call_float32(heads, positions, out, log_sums, None, None, workspace)


@operator("by_heads", "workspace")
def _attention_backward_float32(
    heads: Tensor,
    positions: Tensor | None,
    out: Tensor,
    log_sums: Tensor,
    by_out: Tensor,
    by_heads: Tensor,
    workspace: Tensor,
) -> None:
    _call_float32(heads, positions, out, log_sums, by_out, by_heads, workspace)


def _call_float32(heads: Tensor, *others: Tensor | None) -> None:
    compiled, (batch, length, _, n_head, size) = float32_library(), heads.shape
    workspace = others[-1]
    assert compiled is not None and workspace is not None
    compiled.attention(*map(address, (heads, *others)), batch, length, n_head, size, *workspace.shape)
