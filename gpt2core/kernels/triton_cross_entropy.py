"""The kernel of the loss on CUDA, in Triton: logits become their own derivatives where they stand.

A program takes a row of logits: it goes through them once for their largest and the sum of exponentials, and once more, when
they are still in the cache, to write. Imported where CUDA is used, because Triton is not there without it.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

COLUMNS, WARPS = 2048, 4
"""Columns of a row that a program looks at together, and how many warps share them: the fastest of those tried."""
LOWEST = tl.constexpr(-1e30)
"""Below every logit, and finite: it can be subtracted from itself."""


def cross_entropy(logits: Tensor, targets: Tensor, share: Tensor, losses: Tensor, n_vocab: int, gradients: bool) -> None:
    """See `training_kernels.cross_entropy`; the derivatives of columns from `n_vocab` on are 0."""
    with torch.cuda.device_of(logits):  # type: ignore[no-untyped-call]
        launch = _cross_entropy[(len(logits),)]
        launch(logits, targets, share, losses, n_vocab, logits.stride(0), gradients, COLUMNS, num_warps=WARPS)


# Triton reads the annotations too, and knows none but its own.
@triton.jit  # type: ignore[untyped-decorator, unused-ignore]
def _cross_entropy(  # type: ignore[no-untyped-def]
    logits, targets, share, losses, n_vocab, width: tl.constexpr, gradients: tl.constexpr, at_once: tl.constexpr
):
    row = tl.program_id(0).to(tl.int64)
    logits += row * width
    part = tl.load(share + row)
    target = tl.where(part != 0, tl.load(targets + row), 0)
    right = tl.load(logits + target).to(tl.float32)
    lanes = tl.arange(0, at_once)
    largest = tl.full([at_once], LOWEST, tl.float32)  # of each lane, and its sum of exponentials relative to that
    total = tl.zeros([at_once], tl.float32)
    for start in range(0, width, at_once):
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
        for start in range(0, width, at_once):
            column = start + lanes
            values = tl.load(logits + column, mask=column < width, other=0).to(tl.float32)
            error = tl.exp(values - top) * factor - tl.where(column == target, part, 0.0)
            error = tl.where(column < n_vocab, error, 0.0)
            tl.store(logits + column, error.to(logits.dtype.element_ty), mask=column < width)
