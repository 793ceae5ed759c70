"""The gradient of an update made by several processes: the same sum, bit for bit, however many there are.

Each process makes whole batches. The gradients are cut into a piece for each process, which adds up its piece of all of them in
the order of the batches' numbers, as one process alone would, and then gives it to the others. So as many bytes travel as in
a ring, and the order of adding, which decides about the last bits, depends on nothing. They travel while backward goes on.
"""

from __future__ import annotations

from collections import deque

import torch
import torch.distributed as dist
from torch import Tensor

from gpt2core.distributed.buckets import fill, flat, itself
from gpt2core.distributed.leaving_buckets import LeavingBuckets
from gpt2core.distributed.process_group import ProcessGroup

BUCKET = 16_000_000
"""Numbers that are exchanged at a time: enough to make use of any network, and little beside a model."""
ON_THEIR_WAY = 3
"""Buckets that are exchanged at the same time, for each of which there is memory."""


class GradientExchange:
    """For each update `begin`; for every round of batches (`ProcessGroup.rounds`) `begin_round`, backward where this process
    makes a batch, `made` by its hooks, `catch_up`, `add`; then `finish`."""

    def __init__(self, parameters: list[Tensor], group: ProcessGroup) -> None:
        self._group = group
        self._leaving = LeavingBuckets(parameters, BUCKET, self._send)
        self._pieces: list[Tensor] = []
        self._loss: Tensor | None = None
        self._on_their_way: deque[tuple[Tensor, Tensor, dist.Work]] = deque()
        self._arrived = self._made = 0
        self._is_first = True

    def begin(self) -> None:
        """The next round is the first of an update, whatever is left of another one."""
        self._pieces.clear()
        self._loss, self._is_first = None, True

    def begin_round(self, made: int) -> None:
        """Of `made` batches: the gradients that are made from now on are exchanged; no others may be there."""
        self._made, self._arrived = made, 0
        self._leaving.begin()

    def made(self, parameter: Tensor) -> None:
        """The gradient of this parameter is in its `grad`."""
        self._leaving.made(parameter)

    def catch_up(self) -> None:
        """Exchange all that is left of the round, and that this process has made nothing for."""
        self._leaving.send_rest()
        while self._on_their_way:
            self._add_next()
        self._is_first = False

    @torch.no_grad()
    def add(self, loss: Tensor) -> None:
        """Add the losses [] of the round's batches; that of a process that made none is not looked at."""
        for part in self._group.gather(loss.reshape(1))[: self._made]:
            self._loss = part.clone() if self._loss is None else self._loss + part

    @torch.no_grad()
    def finish(self) -> Tensor:
        """The sum [] of all losses; that of all gradients is left in every parameter's `grad`."""
        for piece, bucket in zip(self._pieces, self._leaving.buckets, strict=True):
            gradients = [torch.empty_like(p) if p.grad is None else p.grad for p in bucket]
            fill(gradients, self._group.gather(piece, itself(gradients, self._group.size)))
            for parameter, gradient in zip(bucket, gradients, strict=True):
                parameter.grad = gradient
        assert self._loss is not None
        return self._loss

    @torch.no_grad()
    def _send(self, bucket: list[Tensor]) -> None:
        if len(self._on_their_way) == ON_THEIR_WAY:
            self._add_next()
        numbers = flat([torch.zeros_like(p) if p.grad is None else p.grad for p in bucket], self._group.size)
        received, work = self._group.begin_exchange(numbers)
        self._on_their_way.append((numbers, received, work))

    @torch.no_grad()
    def _add_next(self) -> None:
        _, received, work = self._on_their_way.popleft()
        self._group.wait(work)
        rows = received.view(self._group.size, -1)
        if self._is_first:
            self._pieces.append(rows[0] + rows[1] if self._made > 1 else rows[0].clone())
        for row in rows[2 if self._is_first else 0 : self._made]:
            self._pieces[self._arrived].add_(row)
        self._arrived += 1
