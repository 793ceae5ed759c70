"""The processes that make each update together, and this one's place among them.

Tensors go through torch.distributed: gloo between processors, NCCL between CUDA devices.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from configs.errors import UserError
from gpt2core.distributed.messages import Messages


class ProcessGroup:
    """`size` processes, of which this one is number `rank`; number 0 leads. `ALONE` is one process without others."""

    def __init__(self, messages: Messages | None = None, timeout: float = 600.0, here: int | None = None) -> None:
        """Meet the others, who must be there; whoever then lets them wait longer than `timeout` seconds is lost."""
        self.rank = messages.rank if messages else 0
        self.size = messages.size if messages else 1
        self.here = here or self.size
        """How many of them are on this machine: all, unless given."""
        self._messages = messages
        self._timeout = timeout
        if messages:
            backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
            store, limit = dist.PrefixStore("group", messages.store), timedelta(seconds=timeout)  # type: ignore[attr-defined]
            self._together(lambda: dist.init_process_group(backend, None, limit, self.size, self.rank, store))

    @property
    def messages(self) -> Messages:
        """What goes between these processes beside tensors; there must be others."""
        assert self._messages is not None
        return self._messages

    def rounds(self, batches: int) -> Iterator[tuple[int | None, int]]:
        """An update's batches in rounds of neighbours: the one that this process makes, if any, and how many all make."""
        for first in range(0, batches, self.size):
            made = min(self.size, batches - first)
            yield first + self.rank if self.rank < made else None, made

    def any(self, *flags: bool) -> list[bool]:
        """For each flag whether some process has raised it."""
        raised = torch.tensor(flags, dtype=torch.int64)
        self._together(lambda: dist.all_reduce(raised, dist.ReduceOp.MAX))
        return [bool(flag) for flag in raised]

    def begin_exchange(self, flat: Tensor) -> tuple[Tensor, dist.Work]:
        """Begin to receive this process's piece of everybody's `flat` [size * n], of each process one after the other, into
        memory that is returned; `wait` for it."""
        received = torch.empty_like(flat)
        work: dist.Work = self._together(lambda: dist.all_to_all_single(received, flat, async_op=True))
        return received, work

    def hand_out(self, flat: Tensor, lengths: list[int]) -> Tensor:
        """This process's piece of everybody's `flat`, whose pieces have these lengths: a row for each process, [size, n]."""
        own = lengths[self.rank]
        received = flat.new_empty(self.size * own)
        self._together(lambda: dist.all_to_all_single(received, flat, [own] * self.size, lengths))
        return received.view(self.size, own)

    def gather(self, piece: Tensor, into: Tensor | None = None) -> Tensor:
        """Everybody's piece [n], one behind the other: [size * n], in memory that is there or new."""
        whole = piece.new_empty(self.size * len(piece)) if into is None else into
        way = dist.all_gather_into_tensor if piece.is_cuda else self._gather_by_broadcasts
        self._together(lambda: way(whole, piece))
        return whole

    def _gather_by_broadcasts(self, whole: Tensor, piece: Tensor) -> None:
        """Gloo's own all-gather takes three times as long, and the memory of `whole` once more (benchmarks/LOG.md)."""
        rows = whole.view(self.size, -1)
        rows[self.rank].copy_(piece)
        for work in [dist.broadcast(row, owner, async_op=True) for owner, row in enumerate(rows)]:
            work.wait()

    def broadcast(self, numbers: Tensor, owner: int) -> None:
        """Replace numbers by those of process `owner`."""
        self._together(lambda: dist.broadcast(numbers, owner))

    def hand_to_first(self, tensor: Tensor, owner: int) -> None:
        """From process `owner` to the first one; the others have no part in it."""
        self._together(lambda: dist.recv(tensor, owner) if self.rank == 0 else dist.send(tensor, 0))

    def begin_sum(self, numbers: Tensor) -> dist.Work:
        """Begin to replace numbers by the sum of everybody's, in the back-end's own order; `wait` for it."""
        work: dist.Work = self._together(lambda: dist.all_reduce(numbers, async_op=True))
        return work

    def wait(self, work: dist.Work) -> None:
        """Return when it is done."""
        self._together(work.wait)

    def require_same(self, tensors: Iterable[Tensor]) -> None:
        """Raise UserError where a process has other bits in these float32 tensors than the first one."""
        sums = [number * _checksum(tensor) for number, tensor in enumerate(tensors, 1)]
        found = self.gather(torch.stack(sums).sum().cpu().reshape(1)).tolist()
        if others := [str(rank) for rank, checksum in enumerate(found) if checksum != found[0]]:
            raise UserError(
                f"The weights of process {' and '.join(others)} of {self.size} are no longer those of the first one: their "
                "machines compute differently, or memory fails. Use machines of one kind; the same command goes on from the "
                "last checkpoint, where all had the same."
            )

    def close(self) -> None:
        """Part from the others."""
        if self._messages:
            with suppress(RuntimeError):  # those who are lost can be left all the same
                dist.destroy_process_group()

    def _together(self, call: Callable[[], Any]) -> Any:
        """What the call returns; raises UserError that names who is lost where the others do not answer it."""
        begun = time.monotonic()
        try:
            return call()
        except RuntimeError as error:
            hangs = time.monotonic() - begun > 0.9 * self._timeout
            raise self.messages.lost(self._timeout if hangs else 0.0) from error


ALONE = ProcessGroup()


def _checksum(tensor: Tensor) -> Tensor:
    return tensor.detach().reshape(-1).view(torch.int32).sum(dtype=torch.int64)
