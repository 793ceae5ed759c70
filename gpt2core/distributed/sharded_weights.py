"""Weights that are needed together, as a block's are: each process keeps some, and has the others while they compute."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from gpt2core.distributed.process_group import ProcessGroup
from gpt2core.distributed.shards import Shards, give


class ShardedWeights:
    """Of a model in training: for each round of batches `fetch`, forward and backward, `add`, `release`; `finish` at the end.

    `masters` are the float32 weights by the tensor that computes: a copy, or themselves.
    """

    def __init__(self, masters: Mapping[Tensor, Tensor], shards: Shards, group: ProcessGroup) -> None:
        self._group = group
        for tensor in {*masters, *masters.values()}:
            _give_own_memory(tensor)
        self._computing = [tensor for tensor, master in masters.items() if shards.owner_of(master) != group.rank]
        self._others = {*self._computing, *(masters[tensor] for tensor in self._computing)}
        self._data: list[list[Tensor]] = [[] for _ in range(group.size)]
        self._trained: list[list[Tensor]] = [[] for _ in range(group.size)]
        for tensor, master in masters.items():
            owner = shards.owner_of(master)
            self._data[owner].append(tensor.data)  # the same memory, whose filling is no change that autograd would mind
            if master.requires_grad:
                self._trained[owner].append(master)
        self._sum: Tensor | None = None

    @property
    def trains(self) -> bool:
        """Whether one of them changes."""
        return any(self._trained)

    def fetch(self) -> None:
        """Have all of them; every process calls this."""
        for tensor in self._computing:
            allocate(tensor)
        give(self._data, self._group)

    def release(self) -> None:
        """Let go of what the others keep."""
        for tensor in self._others:
            _resize(tensor, 0)

    def begin(self) -> None:
        """The next round is the first of an update, whatever is left of another one."""
        self._sum = None
        for trained in self._trained:
            for weight in trained:
                weight.grad = None

    @torch.no_grad()
    def add(self, made: int) -> None:
        """Add the gradients of a round's `made` batches; those of a process that made none are not looked at."""
        lengths = [sum(weight.numel() for weight in trained) for trained in self._trained]
        if not any(lengths):
            return
        trained = [weight for by_owner in self._trained for weight in by_owner]
        gradients = [torch.zeros_like(weight) if weight.grad is None else weight.grad for weight in trained]
        for weight in trained:
            weight.grad = None
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        gradients.clear()
        rows = self._group.hand_out(flat, lengths)
        begun = self._sum is not None
        if self._sum is None:
            self._sum = rows[0] + rows[1] if made > 1 else rows[0].clone()
        for row in rows[0 if begun else 2 : made]:
            self._sum.add_(row)

    def finish(self) -> None:
        """Leave the sum of all gradients in the `grad` of the weights that this process keeps."""
        own = self._trained[self._group.rank]
        if self._sum is not None and own:
            parts = torch.split(self._sum, [weight.numel() for weight in own])
            for weight, part in zip(own, parts, strict=True):
                weight.grad = part.view_as(weight)


def allocate(tensor: Tensor) -> None:
    """Have memory for a tensor's numbers, whatever is in it; what is there stays."""
    if not tensor.untyped_storage().nbytes():
        _resize(tensor, tensor.nbytes)


def _resize(tensor: Tensor, size: int) -> None:
    torch.ops.inductor.resize_storage_bytes_(tensor, size)  # an operation, of which whoever counts memory hears


def _give_own_memory(tensor: Tensor) -> None:
    """Which can be let go of: what was read from a file may lie in memory that is the file's."""
    storage = tensor.untyped_storage()
    if not storage.resizable() or storage.nbytes() != tensor.nbytes:
        tensor.data = tensor.data.clone()
