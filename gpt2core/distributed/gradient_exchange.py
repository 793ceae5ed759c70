"""The gradient of an update made by several processes: the same sum, bit for bit, however many there are.

Each process makes whole batches. The gradients are cut into a piece for each process, which adds up its piece of all of them in
the order of the batches' numbers, as one process alone would, and then gives it to the others. So as many bytes travel as in
a ring, and the order of adding, which decides about the last bits, depends on nothing.
"""

from __future__ import annotations

import torch
from torch import Tensor

from gpt2core.distributed.buckets import buckets_of, fill, flat, itself
from gpt2core.distributed.process_group import ProcessGroup

BUCKET = 16_000_000
"""Numbers that are exchanged at a time: enough to make use of any network, and little beside a model."""


class GradientExchange:
    """For each update `add` after backward of every round of batches (`ProcessGroup.rounds`), then `finish`."""

    def __init__(self, parameters: list[Tensor], group: ProcessGroup) -> None:
        self._parameters = parameters
        self._group = group
        self._pieces: list[Tensor] = []

    def begin(self) -> None:
        """The next round is the first of an update, whatever is left of another one."""
        self._pieces.clear()

    @torch.no_grad()
    def add(self, loss: Tensor, made: int) -> None:
        """Add the losses [] and gradients of a round's `made` batches; those of a process that made none are not looked at."""
        tensors = [loss.reshape(1), *(torch.zeros_like(p) if p.grad is None else p.grad for p in self._parameters)]
        is_first = not self._pieces
        for number, bucket in enumerate(buckets_of(tensors, BUCKET)):
            rows = self._group.exchange(flat(bucket, self._group.size))
            if is_first:
                self._pieces.append(rows[0] + rows[1] if made > 1 else rows[0].clone())
            for row in rows[2 if is_first else 0 : made]:
                self._pieces[number].add_(row)

    @torch.no_grad()
    def finish(self) -> Tensor:
        """The sum [] of all losses; that of all gradients is left in every parameter's `grad`."""
        loss = torch.empty_like(self._pieces[0][:1])
        gradients = [torch.empty_like(p) if p.grad is None else p.grad for p in self._parameters]
        for piece, bucket in zip(self._pieces, buckets_of([loss, *gradients], BUCKET), strict=True):
            fill(bucket, self._group.gather(piece, itself(bucket, self._group.size)))
        for parameter, gradient in zip(self._parameters, gradients, strict=True):
            parameter.grad = gradient
        return loss[0]
