"""Where the gradients of a weight are added up: in float32, for a bfloat16 weight in the one that it is a copy of.

What can write them there does so, and they never exist in bfloat16; those of PyTorch's own functions are added as soon as
backward has them.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor


class GradientSum:
    """The `grad` of the float32 weight `own`; what it held is replaced by the first gradient after `restart`."""

    def __init__(self, own: Tensor) -> None:
        self._own = own
        self._begun = False

    def restart(self) -> None:
        """The next gradient is the first of an update."""
        self._begun = False

    def destination(self) -> tuple[Tensor, bool]:
        """Where the caller now writes a gradient, in float32, and whether to add it to what is there."""
        if self._own.grad is None:
            self._own.grad = torch.empty_like(self._own)
        begun, self._begun = self._begun, True
        return self._own.grad, begun

    def add(self, gradient: Tensor) -> None:
        """Add a gradient; the first one, if it is float32, becomes the sum itself."""
        if not self._begun and gradient.dtype is torch.float32:
            self._own.grad, self._begun = gradient, True
            return
        total, begun = self.destination()
        if begun:
            total.add_(gradient)
        else:
            total.copy_(gradient)


class OwnGradient(GradientSum):
    """The `grad` of a float32 weight that computes itself; PyTorch's own functions add to it as well."""

    def destination(self) -> tuple[Tensor, bool]:
        """Where the caller now writes a gradient, and whether to add it: `zero_grad` makes the next one the first."""
        self._begun = self._own.grad is not None
        return super().destination()

    def add(self, gradient: Tensor) -> None:
        """Add a gradient; the first one becomes the sum itself."""
        self._begun = self._own.grad is not None
        super().add(gradient)


def sum_gradients_of(copied: Tensor, own: Tensor) -> GradientSum:
    """Let the gradients of a copy be added up in its float32 weight, which may be the same."""
    total = OwnGradient(own) if copied is own else GradientSum(own)
    copied.gradient_sum = total  # type: ignore[attr-defined]
    if copied is not own:
        copied.register_post_accumulate_grad_hook(partial(_collect, total))  # type: ignore[no-untyped-call]
    return total


@torch.no_grad()
def _collect(total: GradientSum, copied: Tensor) -> None:
    if copied.grad is not None:  # PyTorch calls also for a gradient that was written to the sum already
        total.add(copied.grad)
        copied.grad = None


def sum_of(weight: Tensor) -> GradientSum | None:
    """Where a weight's gradients are added up, if somewhere else than in its own `grad`."""
    return getattr(weight, "gradient_sum", None)
