"""Cross-entropy of a linear output head without ever holding all logits, and its gradients made on the way.

A chunk of rows is turned into logits, probabilities and gradients before the next one is looked at, so the memory is that of
one chunk, and backward has nothing left to compute. Shapes: N rows (positions), n rows of a chunk, C width, V vocabulary.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from gpt2core.kernels import matmul, training_kernels
from gpt2core.machine.python_threads import compute_all
from gpt2core.model.batch_parts import PARTS
from gpt2core.model.gradient_sums import sum_of

IGNORED = -100
CHUNK = 256
"""Rows at a time on a CPU: with PyTorch's products, larger chunks are no faster."""
OWN_CHUNK = 512
"""Rows at a time with our products, which go through all weights for each chunk."""
ACCELERATOR_CHUNK = 4096
PADDING = 64
"""bfloat16 products are faster where the vocabulary is a multiple of this; the added columns have probability 0."""


def linear_cross_entropy(hidden: Tensor, weight: Tensor, targets: Tensor, by_parts: bool = False) -> Tensor:
    """Mean in nats, float32, of the cross-entropy of hidden [N, C] @ weight [V, C] transposed, at targets int64 [N].

    Targets of -100 are left out; if all are, the mean is 0. Can be differentiated once, by hidden and weight. With `by_parts`,
    on a CPU in float32, Python threads share what is computed for gradients.
    """
    if torch.is_grad_enabled() and (hidden.requires_grad or weight.requires_grad):
        loss: Tensor = _LinearCrossEntropy.apply(hidden, weight, targets, by_parts)  # type: ignore[no-untyped-call]
        return loss
    return _walk(hidden, weight, targets, None, None, False)


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, by_parts: bool) -> Tensor:
        by_hidden, by_weight = (torch.empty_like(hidden) if ctx.needs_input_grad[0] else None), None
        if ctx.needs_input_grad[1]:
            by_weight = _gradient_like(weight, hidden)
        loss = _walk(hidden, weight, targets, by_hidden, by_weight, by_parts)
        ctx.by_hidden, ctx.by_weight = by_hidden, by_weight[: len(weight)] if by_weight is not None else None
        ctx.sum, ctx.dtype = sum_of(weight), weight.dtype
        return loss

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        by_hidden, by_weight = (_scale(gradient, outer[0]) for gradient in (ctx.by_hidden, ctx.by_weight))
        del ctx.by_hidden, ctx.by_weight
        if by_weight is not None and ctx.sum is not None:
            ctx.sum.add(by_weight)
            by_weight = None
        return by_hidden, by_weight if by_weight is None else by_weight.to(ctx.dtype), None, None


def _scale(gradient: Tensor | None, factor: Tensor) -> Tensor | None:
    if gradient is not None and training_kernels.supports(gradient):
        training_kernels.scale(gradient, factor)
        return gradient
    return gradient.mul_(factor) if gradient is not None else None


def _gradient_like(weight: Tensor, hidden: Tensor) -> Tensor:
    """Memory for the gradient by weight: [V, C] where our products make it, else [padded V, C]; in float32 if it is fused."""
    rows = len(weight) if matmul.supports(hidden) else _padded(weight)
    return weight.new_empty(rows, weight.shape[1], dtype=torch.float32 if _is_fused(hidden) else weight.dtype)


def _padded(weight: Tensor) -> int:
    """Columns of logits while they are multiplied."""
    n_vocab = weight.shape[0]
    return -(-n_vocab // PADDING) * PADDING if weight.dtype is torch.bfloat16 else n_vocab


def _with_padding(weight: Tensor) -> Tensor:
    """[padded V, C], the added rows zero."""
    extra = _padded(weight) - len(weight)
    return F.pad(weight, (0, 0, 0, extra)) if extra else weight


def _walk(
    hidden: Tensor, weight: Tensor, targets: Tensor, by_hidden: Tensor | None, by_weight: Tensor | None, by_parts: bool
) -> Tensor:
    """The mean loss; fills its gradients by hidden [N, C] and by weight where they are wanted."""
    counted = targets != IGNORED
    share = counted / counted.sum().clamp(min=1)  # [N]
    if by_parts and by_hidden is not None:
        return _walk_by_parts(hidden, weight, targets, share, by_hidden, by_weight)
    way = _walk_on_our_way if _is_fused(hidden) else _walk_on_pytorchs_way
    return way(hidden, weight, targets, share, by_hidden, by_weight)


def _is_fused(hidden: Tensor) -> bool:
    """Whether there are products that sum in float32, and a kernel that turns logits into their derivatives."""
    return training_kernels.supports_loss(hidden) if hidden.is_cuda else matmul.supports(hidden)


def _walk_on_our_way(
    hidden: Tensor, weight: Tensor, targets: Tensor, share: Tensor, by_hidden: Tensor | None, by_weight: Tensor | None
) -> Tensor:
    """By products that sum in float32, and a kernel that turns logits into their gradients where they stand."""
    n_vocab, losses = len(weight), torch.empty_like(share)  # [N]
    if hidden.is_cuda:
        weight = _with_padding(weight)
    wanted = by_hidden is not None or by_weight is not None
    size = ACCELERATOR_CHUNK if hidden.is_cuda else OWN_CHUNK
    for start in range(0, len(hidden), size):
        rows = slice(start, start + size)
        error = hidden.new_empty(len(hidden[rows]), _padded(weight))  # [n, padded V]: logits at first
        matmul.multiply(hidden[rows], weight, error, transposed=True)
        training_kernels.cross_entropy(error, targets[rows], share[rows], losses[rows], n_vocab, wanted)
        if by_hidden is not None:
            matmul.multiply(error, weight, by_hidden[rows])
        if by_weight is not None:
            matmul.add_gradient(error, hidden[rows], by_weight, None, add=start > 0)
    return _total(losses)


def _total(losses: Tensor) -> Tensor:
    """Their sum []: on a CPU by chunks, since threads would share out a long sum, each number of them in its own way."""
    return losses.sum() if losses.is_cuda else torch.stack([part.sum() for part in torch.split(losses, OWN_CHUNK)]).sum()


def _walk_on_pytorchs_way(
    hidden: Tensor, weight: Tensor, targets: Tensor, share: Tensor, by_hidden: Tensor | None, by_weight: Tensor | None
) -> Tensor:
    n_vocab, loss = weight.shape[0], torch.zeros((), device=hidden.device)
    extra, weight = _padded(weight) - n_vocab, _with_padding(weight)
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


def _walk_by_parts(
    hidden: Tensor, weight: Tensor, targets: Tensor, share: Tensor, by_hidden: Tensor, by_weight: Tensor | None
) -> Tensor:
    """By PyTorch's products of some rows at a time; the gradient by weight of some of the vocabulary at a time."""
    losses = torch.empty_like(share)  # [N]
    for start in range(0, len(hidden), OWN_CHUNK):
        own, *by_row = (whole[start : start + OWN_CHUNK] for whole in (hidden, targets, share, losses, by_hidden))
        error = own.new_empty(len(own), len(weight))  # [n, V]
        rows = zip(*(whole.tensor_split(PARTS) for whole in (own, error, *by_row)), strict=True)
        compute_all(partial(_fill_rows, weight), list(rows))
        if by_weight is not None:
            columns = zip(by_weight.tensor_split(PARTS), error.tensor_split(PARTS, 1), strict=True)
            compute_all(partial(_add_by_weight, own, float(start > 0)), list(columns))
    return _total(losses)


def _fill_rows(weight: Tensor, part: tuple[Tensor, ...]) -> None:
    """The error, first used for logits, the losses and the gradient by hidden of some rows."""
    hidden, error, targets, share, losses, by_hidden = part
    torch.mm(hidden, weight.t(), out=error)
    target = targets[:, None].clamp(min=0)  # [n, 1]
    probabilities = error.softmax(-1)
    # log(sum of exponentials) from the likeliest token, whose probability cannot underflow.
    margin = error.amax(-1, True) - error.gather(1, target) - probabilities.amax(-1, True).log()
    torch.mul(margin[:, 0], share, out=losses)
    torch.mul(probabilities.scatter_add_(1, target, -torch.ones_like(margin)), share[:, None], out=error)
    torch.mm(error, weight, out=by_hidden)


def _add_by_weight(hidden: Tensor, beta: float, part: tuple[Tensor, Tensor]) -> None:
    """Write the gradient by some of the vocabulary, or add to it where beta is 1."""
    by_weight, error = part
    torch.addmm(by_weight, error.t(), hidden, beta=beta, out=by_weight)
