"""LayerNorm over the last dimension, whose gradients are the same bits for any number of threads where it is compiled."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from gpt2core.kernels import training_kernels
from gpt2core.model.gradient_sums import sum_of


class LayerNorm(nn.LayerNorm):
    """torch's LayerNorm, computed by our kernel where there is one for it."""

    def forward(self, x: Tensor) -> Tensor:
        """[..., C] -> [..., C]."""
        if x.dtype is not self.weight.dtype or not training_kernels.supports(x):
            return super().forward(x)
        out: Tensor = _LayerNorm.apply(x, self.weight, self.bias, self.eps)  # type: ignore[no-untyped-call]
        return out


class _LayerNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, epsilon: float) -> Tensor:
        x = x.contiguous()
        out, statistics = torch.empty_like(x), x.new_empty(x.numel() // len(weight), 2, dtype=torch.float32)
        training_kernels.layer_norm(x, weight, bias, out, statistics, epsilon)
        ctx.save_for_backward(x, weight, statistics)
        ctx.sums = [sum_of(weight), sum_of(bias)]
        return out

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, statistics = ctx.saved_tensors
        by_x, by_out = torch.empty_like(x), outer[0].contiguous()
        needed, add = ctx.needs_input_grad[1:3], False
        by_weight = by_bias = workspace = None
        is_summed = all(needed) and all(ctx.sums)
        if is_summed:
            (by_weight, add), (by_bias, _) = (total.destination() for total in ctx.sums)
        elif any(needed):
            by_weight, by_bias = (torch.empty_like(weight, dtype=torch.float32) for _ in range(2))
        if any(needed):
            workspace = training_kernels.layer_norm_workspace(statistics, weight)
        training_kernels.layer_norm_backward(x, weight, statistics, by_out, by_x, by_weight, by_bias, workspace, add)
        returned = [None if found is None or is_summed else found.to(x.dtype) for found in (by_weight, by_bias)]
        return by_x, *returned, None
