"""The gradient of an update made by several processes, summed by the back-end's own all-reduce while backward goes on.

In which order that adds depends on how many processes there are, so the last bits of the weights do too.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor

from gpt2core.distributed.buckets import fill, flat
from gpt2core.distributed.leaving_buckets import LeavingBuckets
from gpt2core.distributed.process_group import ProcessGroup

BUCKET = 4_000_000
"""Numbers that are summed at a time: few enough for the first to be on their way early in backward."""


class OverlappedSum:
    """For each update `begin` before its last backward in this process, `made` by its hooks, then `finish`."""

    def __init__(self, parameters: list[Tensor], group: ProcessGroup) -> None:
        self._parameters = parameters
        self._group = group
        self._leaving = LeavingBuckets(parameters, BUCKET, self._send)
        self._sums: list[tuple[Tensor, dist.Work]] = []

    def forget(self) -> None:
        """What backward makes is not the last of this process."""
        self._leaving.stop()

    def begin(self) -> None:
        """What backward makes from now on is all that this process adds to the update."""
        self._leaving.begin()
        self._sums = []

    def made(self, parameter: Tensor) -> None:
        """The gradient of this parameter is in its `grad`."""
        self._leaving.made(parameter)

    @torch.no_grad()
    def finish(self, loss: Tensor) -> Tensor:
        """The sum [] of all losses; that of all gradients is left in every parameter's `grad`.

        A process that has made none, or not all of its own, takes part all the same.
        """
        if not self._leaving.begun:
            for parameter in self._parameters:
                parameter.grad = None  # of the update before
            self.begin()
        self._leaving.send_rest()
        losses = self._group.gather(loss.reshape(1))
        for (summed, work), bucket in zip(self._sums, self._leaving.buckets, strict=True):
            self._group.wait(work)
            for parameter in bucket:
                parameter.grad = torch.empty_like(parameter) if parameter.grad is None else parameter.grad
            fill([parameter.grad for parameter in bucket if parameter.grad is not None], summed)
        return losses.sum()

    @torch.no_grad()
    def _send(self, bucket: list[Tensor]) -> None:
        summed = flat([torch.zeros_like(p) if p.grad is None else p.grad for p in bucket])
        self._sums.append((summed, self._group.begin_sum(summed)))
