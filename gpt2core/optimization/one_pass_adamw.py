"""torch's AdamW, whose update goes through memory once: it clips, decays, updates, and writes the weights that compute next."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.optim import AdamW

from gpt2core.kernels import training_kernels


class OnePassAdamW(AdamW):
    """Same options, state and update as AdamW's; `copies` are the bfloat16 weights that follow each parameter, if any do.

    `clip` is what the next update multiplies gradients by.
    """

    def __init__(self, groups: Iterable[Any], copies: Mapping[Tensor, Tensor], **options: Any) -> None:
        super().__init__(groups, **options)
        self.clip = 1.0
        self._copies = copies

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Update every parameter that has a gradient; there is no closure."""
        assert closure is None
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, parameter.grad.contiguous(), group)

    def _update(self, parameter: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        state, (beta1, beta2), rate = self.state[parameter], group["betas"], group["lr"]
        if not state:
            state["step"] = torch.zeros((), dtype=torch.float32)
            state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(parameter), torch.zeros_like(parameter)
        state["step"] += 1
        count = state["step"].item()
        kept, correction = 1 - rate * group["weight_decay"], 1 / math.sqrt(1 - beta2**count)
        factors = [beta1, beta2, kept, rate / (1 - beta1**count), correction, group["eps"]]
        tensors = (parameter, gradient, state["exp_avg"], state["exp_avg_sq"], self._copies.get(parameter))
        training_kernels.adamw(*tensors, self.clip, factors)
