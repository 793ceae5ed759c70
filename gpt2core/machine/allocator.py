"""How this process's memory allocator treats large blocks, which decides whether every step pays for its memory anew."""

from __future__ import annotations

import ctypes
import math
import mmap
import sys

import torch
from torch import Tensor

# glibc's malloc.h
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD, M_MMAP_MAX, M_ARENA_MAX = -1, -2, -3, -4, -8


def keep_freed_memory() -> bool:
    """Let freed memory be used again instead of returning it to the system; whether that could be arranged.

    glibc returns large blocks at once, so that activations and gradients of every step are new pages that the system has
    to clear: a fifth of the time of a step. The process then keeps the memory of its largest step until it ends.
    """
    return _arrange({M_MMAP_MAX: 0, M_TRIM_THRESHOLD: 2**31 - 1, M_TOP_PAD: 2**26})


def return_large_blocks() -> bool:
    """Let every large block be the system's again as soon as it is freed; whether that could be arranged.

    For those whose large blocks come and go in other sizes and orders all the time, so that freed ones would lie between others
    and fit nothing: up to half of the memory of a model that is shared out.
    """
    return _arrange({M_MMAP_MAX: 2**16, M_MMAP_THRESHOLD: 2**20, M_TRIM_THRESHOLD: 2**23})


def share_memory_between_threads() -> bool:
    """Let threads that begin from now on take memory where the others do; whether that could be arranged.

    glibc gives each its own heaps of 64 MB, into which few large blocks fit: two threads that make an update took up to half as
    much again.
    """
    return _arrange({M_ARENA_MAX: 1})


def _arrange(wanted: dict[int, int]) -> bool:
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # other C libraries have none
    if mallopt is None:
        return False
    return all(int(mallopt(option, value)) == 1 for option, value in wanted.items())


def return_freed_memory() -> None:
    """Give back what is free now, also between blocks that are in use (glibc).

    Other work between updates leaves such holes, too small for what an update needs, and the process would grow by
    them each time.
    """
    if sys.platform.startswith("linux") and (trim := getattr(ctypes.CDLL(None), "malloc_trim", None)) is not None:
        trim(0)


SIZE = 2 << 20


def empty(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Like `torch.empty` on the CPU; on huge pages where it is large and the system gives them when asked (Linux)."""
    count = math.prod(shape)
    length = count * dtype.itemsize
    if length < SIZE or not hasattr(mmap, "MADV_HUGEPAGE"):
        return torch.empty(shape, dtype=dtype)
    pages = mmap.mmap(-1, length + SIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    pages.madvise(mmap.MADV_HUGEPAGE)
    whole = torch.frombuffer(pages, dtype=torch.uint8)  # keeps the pages
    begin = -whole.data_ptr() % SIZE
    return whole[begin : begin + length].view(dtype).view(shape)
