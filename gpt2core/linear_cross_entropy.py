"""Cross-entropy of a linear output head without ever holding all logits, and its gradients made on the way.

A chunk of rows is turned into logits, probabilities and gradients before the next one is looked at, so the memory is that of
one chunk, and backward has nothing left to compute. Shapes: N rows (positions), C width, V vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from gpt2core import training_kernels

IGNORED = -100
CHUNK = 256
"""Rows at a time on a CPU: larger chunks are no faster."""
ACCELERATOR_CHUNK = 4096
PADDING = 64
"""bfloat16 products are faster where the vocabulary is a multiple of this; the added columns have probability 0."""


def linear_cross_entropy(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """Mean in nats, float32, of the cross-entropy of hidden [N, C] @ weight [V, C] transposed, at targets int64 [N].

    Targets of -100 are left out; if all are, the mean is 0. Can be differentiated once, by hidden and weight.
    """
    if torch.is_grad_enabled() and (hidden.requires_grad or weight.requires_grad):
        loss: Tensor = _LinearCrossEntropy.apply(hidden, weight, targets)  # type: ignore[no-untyped-call]
        return loss
    return _walk(hidden, weight, targets, None, None)


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
        by_hidden, by_weight = (torch.empty_like(hidden) if ctx.needs_input_grad[0] else None), None
        if ctx.needs_input_grad[1]:
            by_weight = weight.new_empty(_padded(weight), weight.shape[1])
        loss = _walk(hidden, weight, targets, by_hidden, by_weight)
        ctx.by_hidden, ctx.by_weight = by_hidden, by_weight[: weight.shape[0]] if by_weight is not None else None
        return loss

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        gradients = [_scale(gradient, outer[0]) for gradient in (ctx.by_hidden, ctx.by_weight)]
        del ctx.by_hidden, ctx.by_weight
        return gradients[0], gradients[1], None


def _scale(gradient: Tensor | None, factor: Tensor) -> Tensor | None:
    if gradient is not None and training_kernels.take(gradient):
        training_kernels.scale(gradient, factor)
        return gradient
    return gradient.mul_(factor) if gradient is not None else None


def _padded(weight: Tensor) -> int:
    """Rows of the head's weight while it is multiplied."""
    n_vocab = weight.shape[0]
    return -(-n_vocab // PADDING) * PADDING if weight.dtype is torch.bfloat16 else n_vocab


def _walk(hidden: Tensor, weight: Tensor, targets: Tensor, by_hidden: Tensor | None, by_weight: Tensor | None) -> Tensor:
    """The mean loss; fills its gradients by hidden [N, C] and by weight [padded V, C] where they are wanted."""
    n_vocab = weight.shape[0]
    if extra := _padded(weight) - n_vocab:
        weight = F.pad(weight, (0, 0, 0, extra))  # [padded V, C]
    counted = targets != IGNORED
    share = counted / counted.sum().clamp(min=1)  # [N]
    if training_kernels.take(weight):
        return _walk_in_one_pass(hidden, weight, n_vocab, targets, share, by_hidden, by_weight)
    loss = torch.zeros((), device=hidden.device)
    size = CHUNK if hidden.device.type == "cpu" else ACCELERATOR_CHUNK
    for start in range(0, len(hidden), size):
        rows = slice(start, start + size)
        logits = F.linear(hidden[rows], weight)  # [n, padded V]
        if extra:
            logits[:, n_vocab:] = -torch.inf
        target = targets[rows, None].clamp(min=0)  # [n, 1]
        probabilities = logits.softmax(-1, dtype=torch.float32)
        # log(sum of exponentials) from the likeliest token, whose probability cannot underflow.
        margin = (logits.amax(-1, True) - logits.gather(1, target)).float()
        loss += ((margin - probabilities.amax(-1, True).log())[:, 0] * share[rows]).sum()
        if by_hidden is None and by_weight is None:
            continue
        ones = torch.ones_like(target, dtype=torch.float32)
        error = probabilities.scatter_add_(1, target, -ones).to(weight.dtype)  # [n, padded V]
        scale = share[rows, None].to(weight.dtype)
        if by_hidden is not None:
            by_hidden[rows] = error @ weight * scale
        if by_weight is not None:
            torch.addmm(by_weight, error.t(), hidden[rows] * scale, beta=float(start > 0), out=by_weight)
    return loss


def _walk_in_one_pass(
    hidden: Tensor,
    weight: Tensor,
    n_vocab: int,
    targets: Tensor,
    share: Tensor,
    by_hidden: Tensor | None,
    by_weight: Tensor | None,
) -> Tensor:
    """The same by a kernel that turns logits into their gradients where they stand; weight is [padded V, C]."""
    losses = torch.empty_like(share)  # [N]
    wanted = by_hidden is not None or by_weight is not None
    for start in range(0, len(hidden), CHUNK):
        rows = slice(start, start + CHUNK)
        error = F.linear(hidden[rows], weight)  # [n, padded V]: logits at first
        training_kernels.cross_entropy(error, targets[rows], share[rows], losses[rows], n_vocab, wanted)
        if by_hidden is not None:
            torch.mm(error, weight, out=by_hidden[rows])
        if by_weight is not None:
            torch.addmm(by_weight, error.t(), hidden[rows], beta=float(start > 0), out=by_weight)
    return losses.sum()
