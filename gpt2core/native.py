"""Calls single_rows.c, compiled for this machine: products of single rows at the speed of memory.

Where there is no compiler, or on another kind of processor than the CPU, nothing here is needed: see `gpt2core.inference`.
"""

from __future__ import annotations

import ctypes
from functools import lru_cache

import torch
from torch import Tensor

from gpt2core.c_library import COUNT, POINTER, address, load_c

LANES = 16
"""Words that the C code reads side by side."""
WIDEST_HEAD = 256
SIGNATURES = {
    "bfloat16_products": [POINTER] * 5 + [COUNT] * 3,
    "int8_products": [POINTER] * 5 + [COUNT] * 3,
    "attend_cached": [POINTER] * 3 + [COUNT] + [POINTER] * 5 + [COUNT] * 4,
}


@lru_cache(maxsize=1)
def library() -> ctypes.CDLL | None:
    """The compiled code; None where there is no C compiler."""
    return load_c("single_rows", SIGNATURES)


def products(x: Tensor, weight: Tensor, scale: Tensor | None, bias: Tensor | None) -> Tensor:
    """x float32 [rows, in] times weight [out, in] in bfloat16 or int8: float32 [rows, out]. `scale` and `bias` are [out].

    A row's bits do not depend on the other rows. `in` is a multiple of 64.
    """
    compiled = library()
    assert compiled is not None
    parts = 4 // weight.element_size()
    gathered = x.reshape(len(x), -1, LANES, parts).transpose(-1, -2).contiguous()
    out = torch.empty(len(x), len(weight))
    function = compiled.bfloat16_products if parts == 2 else compiled.int8_products
    function(*map(address, (weight, scale, bias, gathered, out)), len(x), weight.shape[1], len(weight))
    return out


def attend_cached(query: Tensor, key: Tensor, value: Tensor, keys: Tensor, values: Tensor, lengths: Tensor) -> Tensor:
    """Write one new position's key and value float32 [B, H, 1, D] behind the cached ones; mix the values for its query.

    `keys` and `values` are bfloat16 [B, H, capacity, D], contiguous, filled up to `lengths` int64 [B]. D is a multiple of 32
    and at most 256. Returns float32 [B, H, 1, D].
    """
    compiled = library()
    assert compiled is not None
    rows, heads, capacity, width = keys.shape
    out, scores = torch.empty(rows, heads, 1, width), torch.empty(rows, heads, capacity)
    after = map(address, (keys, values, lengths, scores, out))
    before = map(address, (query, key, value))
    compiled.attend_cached(*before, query.stride(0), *after, rows, heads, capacity, width)
    return out
