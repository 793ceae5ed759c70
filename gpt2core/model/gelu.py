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
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        x = x.contiguous()
        ctx.save_for_backward(x)
        out = torch.empty_like(x)
        training_kernels.gelu(x, out)
        return out

    @staticmethod
    def backward(ctx: Any, *by_output: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        by_input = torch.empty_like(x)
        training_kernels.gelu_backward(x, by_output[0].contiguous(), by_input)
        return by_input
