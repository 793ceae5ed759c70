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
    """Which process keeps the state of each parameter: the next largest one goes to whoever has least."""
    held, found = [0] * size, {}
    for parameter in sorted(parameters, key=lambda parameter: -parameter.numel()):
        rank = held.index(min(held))
        held[rank] += parameter.numel()
        found[parameter] = rank
    return found


def largest_share(kinds: list[tuple[str, Tensor]], size: int) -> int:
    """Bytes that the process keeps that has most of `kinds`: a tensor's name and the parameter whose shape it has."""
    found, held = owners({parameter: None for _, parameter in kinds}, size), [0] * size
    for _, parameter in kinds:
        held[found[parameter]] += 4 * parameter.numel()
    return max(held)


class Shards:
    """Of the state of these parameters, which all processes have in the same order."""

    def __init__(self, parameters: list[Tensor], group: ProcessGroup) -> None:
        self._group = group
        self._owners = owners(parameters, group.size)

    @property
    def own(self) -> set[Tensor]:
        """The parameters that this process updates."""
        return {parameter for parameter, rank in self._owners.items() if rank == self._group.rank}

    @torch.no_grad()
    def share(self) -> None:
        """Give everybody the parameters that this process has updated, and take over those of the others."""
        for owner in range(self._group.size):
            theirs = [parameter for parameter, rank in self._owners.items() if rank == owner]
            for bucket in buckets_of(theirs, BUCKET) if theirs else ():
                numbers = flat(bucket)
                self._group.broadcast(numbers, owner)
                if owner != self._group.rank:
                    fill(bucket, numbers)

    def gather(self, kinds: list[tuple[str, Tensor]], own: dict[str, Tensor]) -> dict[str, Tensor]:
        """For the first process what the others have of `kinds` (name of a tensor, parameter whose shape it has).

        It comes to lie in the machine's memory. The others get nothing.
        """
        found: dict[str, Tensor] = {}
        for name, parameter in kinds:
            owner = self._owners[parameter]
            if owner and self._group.rank == owner:
                self._group.hand_to_first(own.get(name, torch.zeros_like(parameter)), owner)
            elif owner and self._group.rank == 0:
                received = torch.empty_like(parameter)
                self._group.hand_to_first(received, owner)
                found[name] = received.detach().cpu()
        return found
