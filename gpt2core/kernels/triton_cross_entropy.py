"""The kernel of the loss on CUDA, in Triton: logits become their own derivatives where they stand.

A program takes a row of logits: it goes through them once for their largest and the sum of exponentials, and once more, when
they are still in the cache, to write. Imported where CUDA is used, because Triton is not there without it.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

COLUMNS = 4096
"""Of a row, that are looked at together."""
LOWEST = tl.constexpr(-1e30)
"""Below every logit, and finite: it can be subtracted from itself."""


def cross_entropy(logits: Tensor, targets: Tensor, share: Tensor, losses: Tensor, n_vocab: int, gradients: bool) -> None:
    """See `training_kernels.cross_entropy`; the derivatives of columns from `n_vocab` on are 0."""
    with torch.cuda.device_of(logits):
        _cross_entropy[(len(logits),)](
            logits, targets, share, losses, n_vocab, logits.stride(0), gradients, COLUMNS, num_warps=8
        )


@triton.jit
def _cross_entropy(
    logits, targets, share, losses, n_vocab, width: tl.constexpr, gradients: tl.constexpr, COLUMNS: tl.constexpr
):  # type: ignore[no-untyped-def]
    row = tl.program_id(0).to(tl.int64)
    logits += row * width
    part = tl.load(share + row)
    target = tl.load(targets + row)
    target = tl.where(part != 0, target, 0)
    right = tl.load(logits + target).to(tl.float32)
    lanes = tl.arange(0, COLUMNS)
    largest = tl.full([COLUMNS], LOWEST, tl.float32)  # of each lane, and its sum of exponentials relative to that
    total = tl.zeros([COLUMNS], tl.float32)
    for start in range(0, width, COLUMNS):
        column = start + lanes
        values = tl.load(logits + column, mask=column < width, other=0).to(tl.float32)
        values = tl.where(column < n_vocab, values, LOWEST)
        higher = tl.maximum(largest, values)
        total = total * tl.exp(largest - higher) + tl.exp(values - higher)
        largest = higher
    top = tl.max(largest, 0)
    whole = tl.sum(total * tl.exp(largest - top), 0)
    tl.store(losses + row, (tl.log(whole) + top - right) * part)
    if gradients:
        factor = part / whole
        for start in range(0, width, COLUMNS):
            column = start + lanes
            inside = column < width
            values = tl.load(logits + column, mask=inside, other=0).to(tl.float32)
            error = tl.exp(values - top) * factor - tl.where(column == target, part, 0.0)
            error = tl.where(column < n_vocab, error, 0.0)
            tl.store(logits + column, error.to(logits.dtype.element_ty), mask=inside)
