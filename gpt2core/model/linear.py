"""The dense layer and the look-up of embeddings, with gradients that are added up in float32 at once where they can be."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from gpt2core.kernels import matmul
from gpt2core.model.gradient_sums import sum_of


def linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """x [..., in] @ weight [in, out] + bias [out]."""
    if not matmul.supports(x, weight.shape[1]):
        return F.linear(x, weight.t(), bias)
    out: Tensor = _Linear.apply(x, weight, bias)  # type: ignore[no-untyped-call]
    return out


def embedding(tokens: Tensor, weight: Tensor) -> Tensor:
    """Rows of weight [V, C] by tokens int64 [...]: [..., C]."""
    if sum_of(weight) is None or weight.device.type != "cpu":  # accelerators add rows in an order that differs by chance
        return F.embedding(tokens, weight)
    out: Tensor = _Embedding.apply(tokens, weight)  # type: ignore[no-untyped-call]
    return out


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        x, out = x.contiguous(), x.new_empty(*x.shape[:-1], weight.shape[1])
        matmul.multiply(x.flatten(0, -2), weight, out.flatten(0, -2), bias)
        ctx.save_for_backward(x, weight)
        ctx.sums = [sum_of(weight), sum_of(bias)]
        return out

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor | None, ...]:
        (x, weight), by_out = ctx.saved_tensors, outer[0].contiguous().flatten(0, -2)
        by_x = None
        if ctx.needs_input_grad[0]:
            by_x = torch.empty_like(x)
            matmul.multiply(by_out, weight, by_x.flatten(0, -2), transposed=True)
        return by_x, *_by_parameters(x.flatten(0, -2), by_out, ctx.needs_input_grad[1:], ctx.sums)


def _by_parameters(x: Tensor, by_out: Tensor, needed: list[bool], sums: list[Any]) -> list[Tensor | None]:
    """The gradients by weight and bias, None where they are not needed or were written where they are added up."""
    if all(needed) and all(sums):
        (by_weight, add), (by_bias, _) = (total.destination() for total in sums)
        matmul.add_gradient(x, by_out, by_weight, by_bias, add)
        return [None, None]
    by_weight = by_bias = None
    if needed[0]:
        by_weight = x.new_empty(x.shape[1], by_out.shape[1], dtype=torch.float32)
        by_bias = x.new_empty(by_out.shape[1], dtype=torch.float32) if needed[1] else None
        matmul.add_gradient(x, by_out, by_weight, by_bias, add=False)
    elif needed[1]:
        by_bias = by_out.sum(0, dtype=torch.float32)
    return [found if found is None else found.to(x.dtype) for found in (by_weight, by_bias)]


class _Embedding(torch.autograd.Function):
    """Adds gradients to the rows that were looked up, and touches no others."""

    @staticmethod
    def forward(ctx: Any, tokens: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(tokens)
        ctx.sum = sum_of(weight)
        return F.embedding(tokens, weight)

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[None, None]:
        total, begun = ctx.sum.destination()
        if not begun:
            total.zero_()
        (tokens,) = ctx.saved_tensors
        total.index_add_(0, tokens.flatten(), outer[0].flatten(0, -2).to(total.dtype))
        return None, None
