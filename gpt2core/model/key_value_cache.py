"""Keys and values of the positions already seen, so that a new position costs only itself.

Rows may be of different lengths. Shapes: L n_layer, B batch, H heads, T new positions, K keys (past and new), D head size.
"""

from __future__ import annotations

import math
from itertools import groupby

import torch
from torch import Tensor

from gpt2core.machine import allocator
from gpt2core.machine.dtypes import cpu_multiplies_bfloat16
from gpt2core.model.attention import attend
from gpt2core.model.config import GPT2Config


class KeyValueCache:
    """Preallocated for `capacity` positions a row: `keys` and `values` are [L, B, H, capacity, D].

    The first `lengths[row]` positions of a row are filled.
    """

    def __init__(self, config: GPT2Config, batch: int, capacity: int, device: torch.device, dtype: torch.dtype) -> None:
        shape = (config.n_layer, batch, config.n_head, capacity, config.head_size)
        if device.type == "cpu":
            self.keys, self.values = allocator.empty(shape, dtype), allocator.empty(shape, dtype)
        else:
            self.keys, self.values = (torch.zeros(shape, device=device, dtype=dtype) for _ in range(2))  # for WholeCache
        self.lengths = torch.zeros(batch, dtype=torch.int64)  # on the CPU: they are looked at before each step

    @property
    def capacity(self) -> int:
        """Positions that fit."""
        return self.keys.shape[3]

    @property
    def length(self) -> int:
        """Filled positions of the longest row."""
        return int(self.lengths.max())

    def row(self, number: int) -> KeyValueCache:
        """One row as a cache of its own that shares the memory."""
        return self._with(self.keys[:, number : number + 1], self.values[:, number : number + 1], slice(number, number + 1))

    def keep(self, rows: list[int]) -> KeyValueCache:
        """A smaller cache of these rows."""
        return self._with(self.keys[:, rows], self.values[:, rows], rows)

    def copy_row(self, source: int, target: int) -> None:
        """Let the target row go on from where the source row stands."""
        length = int(self.lengths[source])
        for tensor in (self.keys, self.values):
            tensor[:, target, :, :length] = tensor[:, source, :, :length]
        self.lengths[target] = length

    def positions(self, count: int) -> Tensor:
        """Positions of the next `count` tokens: int64 [B, count], or [count] where all rows are as long."""
        first = self.lengths[:1] if bool((self.lengths == self.lengths[0]).all()) else self.lengths[:, None]
        return (first + torch.arange(count)).to(self.keys.device)

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Write new keys and values [B, H, T, D] behind the filled part; mix the values for each query: [B, H, T, D]."""
        new = [part.to(self.keys.dtype) for part in (query, key, value)]
        spans = self._spans()
        if len(spans) == 1:
            return self._attend_span(layer, spans[0], *new).to(query.dtype)
        return torch.cat([self._attend_span(layer, rows, *(part[rows] for part in new)) for rows in spans]).to(query.dtype)

    def advance(self, count: int) -> None:
        """Count the new positions as filled, when all layers have written theirs."""
        self.lengths += count

    def _spans(self) -> list[slice]:
        """Neighbouring rows of the same length."""
        spans, first = [], 0
        for _, group in groupby(self.lengths.tolist()):
            count = len(list(group))
            spans.append(slice(first, first + count))
            first += count
        return spans

    def _attend_span(self, layer: int, rows: slice, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        start = int(self.lengths[rows.start])
        end = start + query.shape[2]
        keys, values = self.keys[layer, rows], self.values[layer, rows]
        keys[:, :, start:end], values[:, :, start:end] = key, value
        parts = (query, keys[:, :, :end], values[:, :, :end])
        if query.device.type == "cpu" and not cpu_multiplies_bfloat16():  # PyTorch's products of bfloat16 crawl there
            parts = (query.float(), parts[1].float(), parts[2].float())
        return attend(*parts, 0.0)

    def _with(self, keys: Tensor, values: Tensor, rows: slice | list[int]) -> KeyValueCache:
        other = object.__new__(KeyValueCache)
        other.keys, other.values, other.lengths = keys, values, self.lengths[rows]
        return other


class WholeCache(KeyValueCache):
    """The same memory, which one new token a row looks through whole, behind a mask.

    So a step does the same whatever the lengths are, of which it knows `places` alone, int64 [B] on the device; nobody counts.
    """

    def __init__(self, cache: KeyValueCache) -> None:
        self.keys, self.values, self.lengths = cache.keys, cache.values, cache.lengths
        self.places = cache.lengths.to(cache.keys.device)
        self._rows = torch.arange(len(self.places), device=self.places.device)

    def positions(self, _: int) -> Tensor:
        """Of the new token of each row: int64 [B, 1]."""
        return self.places[:, None]

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """As that of the cache, for queries [B, H, 1, D]."""
        keys, values = self.keys[layer], self.values[layer]  # [B, H, capacity, D]
        for filled, new in ((keys, key), (values, value)):
            filled[self._rows, :, self.places] = new[:, :, 0].to(filled.dtype)
        later = torch.arange(self.capacity, device=keys.device) > self.places[:, None]  # [B, capacity]
        scores = (query.to(keys.dtype) @ keys.transpose(2, 3)).float() / math.sqrt(keys.shape[3])  # [B, H, 1, capacity]
        weights = scores.masked_fill(later[:, None, None], -torch.inf).softmax(-1)
        return (weights.to(values.dtype) @ values).to(query.dtype)

    def advance(self, count: int) -> None:
        """Nothing: the cache that owns the memory counts."""
