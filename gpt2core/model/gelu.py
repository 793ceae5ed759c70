"""GPT-2's activation: 0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3)))."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from gpt2core.kernels import training_kernels


def gelu(x: Tensor) -> Tensor:
    """The tanh form of GELU of every element."""
    if not training_kernels.supports(x):
        return F.gelu(x, approximate="tanh")
    out: Tensor = _Gelu.apply(x)  # type: ignore[no-untyped-call]
    return out


class _Gelu(torch.autograd.Function):
    """Keeps the derivative instead of x: forward has all that it takes at hand, and backward is left with a product."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        x = x.contiguous()
        out, slope = torch.empty_like(x), torch.empty_like(x) if ctx.needs_input_grad[0] else None
        training_kernels.gelu(x, out, slope)
        ctx.save_for_backward(slope)
        return out

    @staticmethod
    def backward(ctx: Any, *by_output: Tensor) -> Tensor:
        slope: Tensor
        (slope,) = ctx.saved_tensors
        return slope * by_output[0]
