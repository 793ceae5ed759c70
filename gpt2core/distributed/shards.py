"""Optimizer state that the processes share out: each keeps that of some parameters, updates these, and gives them to all.

So a process holds a part of it, and the weights are the same bits as without: an update of one parameter needs no other's.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from gpt2core.distributed.buckets import buckets_of, fill, flat
from gpt2core.distributed.process_group import ProcessGroup

BUCKET = 16_000_000
"""Numbers that are given to the others at a time."""


def owners(parameters: Iterable[Tensor], size: int) -> dict[Tensor, int]:
    """Which process keeps the state of each parameter: the next largest one goes to whoever has least, the first of those.

    So the first process keeps no less than others, the smallest parameters aside.
    """
    held, found = [0] * size, {}
    for parameter in sorted(parameters, key=lambda parameter: -parameter.numel()):
        rank = held.index(min(held))
        held[rank] += parameter.numel()
        found[parameter] = rank
    return found


class Shards:
    """Of the state of these parameters, which all processes have in the same order."""

    def __init__(self, parameters: list[Tensor], group: ProcessGroup) -> None:
        self._group = group
        self._owners = owners(parameters, group.size)

    @property
    def own(self) -> set[Tensor]:
        """The parameters that this process updates."""
        return {parameter for parameter, rank in self._owners.items() if rank == self._group.rank}

    def owner_of(self, parameter: Tensor) -> int:
        """The process that updates it."""
        return self._owners[parameter]

    def share(self) -> None:
        """Give everybody the parameters that this process has updated, and take over those of the others."""
        by_owner: list[list[Tensor]] = [[] for _ in range(self._group.size)]
        for parameter, owner in self._owners.items():
            by_owner[owner].append(parameter)
        give(by_owner, self._group)


@torch.no_grad()
def give(by_owner: list[list[Tensor]], group: ProcessGroup) -> None:
    """Give everybody the numbers that each process has in its tensors, in memory that is there."""
    for owner, tensors in enumerate(by_owner):
        for bucket in buckets_of(tensors, BUCKET) if tensors else ():
            numbers = flat(bucket)
            group.broadcast(numbers, owner)
            if owner != group.rank:
                fill(bucket, numbers)
