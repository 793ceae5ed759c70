"""The order in which training sees the token stream: a pure function of (seed, batch index), with no state to save."""

from __future__ import annotations

from copy import copy
from typing import Literal, Self

import numpy as np
import torch
from torch import Tensor

from gpt2core.store.shuffle import Words, mix, permute
from gpt2core.store.token_store import TokenStream

BLOCK = 8192
"""Windows whose places are worked out at once, because a NumPy call costs the same for one as for a thousand."""

Order = Literal["epochs", "random"]


class Batches:
    """Windows of a stream in epochs: each window once an epoch, in an order and from a phase that are new in every epoch.

    The stream is read as a ring, so every token is reached whatever the phase, and the window that goes over the end
    continues with the first document, as if it came next. In n_ctx consecutive epochs no window starts where another did.

    With order "random" each window starts anywhere in the stream instead, independently of all others.
    """

    def __init__(self, stream: TokenStream, n_ctx: int, batch_size: int, seed: int, order: Order = "epochs") -> None:
        if len(stream) < n_ctx + 1:
            raise ValueError(f"a stream of {len(stream)} tokens has no window of {n_ctx} and the token after it")
        self._stream = stream
        self._n_ctx = n_ctx
        self.batch_size = batch_size
        self._seed = seed
        self._order = order
        self._known: tuple[int, list[int]] = (-1, [])

    def in_smaller_batches(self, factor: int) -> Self:
        """The same windows in the same order, in batches of a `factor`-th of the size."""
        smaller = copy(self)
        smaller.batch_size = self.batch_size // factor
        return smaller

    @property
    def windows_per_epoch(self) -> int:
        """Windows of n_ctx tokens that fit into the stream side by side."""
        return len(self._stream) // self._n_ctx

    def at(self, index: int) -> tuple[Tensor, Tensor]:
        """Inputs and targets of batch `index` (0, 1, ...), int64 [batch_size, n_ctx] each; a target is the next token.

        Both are views of one array, since copies would take longer than reading.
        """
        starts = self._starts_from(index * self.batch_size, self.batch_size)
        tokens = self._stream.windows(starts, self._n_ctx + 1).astype(np.int64)  # [B, T + 1]
        return torch.from_numpy(tokens[:, :-1]), torch.from_numpy(tokens[:, 1:])

    def _starts_from(self, number: int, count: int) -> list[int]:
        """Places of `count` windows from the `number`-th on; those of a block of windows are kept."""
        block, offset = divmod(number, BLOCK)
        if self._known[0] == block and offset + count <= BLOCK:
            return self._known[1][offset : offset + count]
        return [self.start(number + place) for place in range(count)]

    def start(self, number: int) -> int:
        """Place in the stream of the window that comes `number`-th over all epochs."""
        block, offset = divmod(number, BLOCK)
        known = self._known
        if known[0] != block:
            numbers = np.arange(block * BLOCK, (block + 1) * BLOCK, dtype=np.uint64)
            known = self._known = (block, self._starts(numbers).tolist())
        return known[1][offset]

    def _starts(self, numbers: Words) -> Words:
        if self._order == "random":
            return mix(numbers + mix(np.uint64(self._seed))) % np.uint64(len(self._stream) - self._n_ctx)
        epoch, place = np.divmod(numbers, np.uint64(self.windows_per_epoch))
        window = permute(place, self.windows_per_epoch, mix(epoch + mix(np.uint64(self._seed))))
        n_ctx = np.uint64(self._n_ctx)
        epochs = np.arange(epoch[0], epoch[-1] + np.uint64(1), dtype=np.uint64)
        phases = permute(epochs % n_ctx, self._n_ctx, mix(epochs // n_ctx + mix(np.uint64(~self._seed & (2**64 - 1)))))
        starts: Words = (phases[epoch - epoch[0]] + window * n_ctx) % np.uint64(len(self._stream))
        return starts
