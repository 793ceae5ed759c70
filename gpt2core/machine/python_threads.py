"""Parts of a computation shared by Python threads, each of which has one thread of PyTorch.

How PyTorch's own threads share a sum depends on their number, and so do its last bits. Here the caller says what the parts are,
and the number of threads decides only which of them computes a part. A part is handed over in some 100 microseconds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from typing import TypeVar

import torch

from gpt2core.machine.allocator import share_memory_between_threads

Part = TypeVar("Part")
Result = TypeVar("Result")

_number: ContextVar[int] = ContextVar("number of Python threads", default=1)


@contextmanager
def python_threads(number: int) -> Iterator[None]:
    """Inside, `compute_all` has so many threads, and PyTorch one."""
    before, token = torch.get_num_threads(), _number.set(number)
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
        _number.reset(token)


def compute_all(compute: Callable[[Part], Result], parts: Sequence[Part]) -> list[Result]:
    """What is computed from each part, in their order; the caller computes as well. Raises what one of them raises."""
    helping = min(_number.get(), len(parts)) - 1
    if helping < 1:
        return [compute(part) for part in parts]
    results: dict[int, Result] = {}
    left, with_gradients = enumerate(parts), torch.is_grad_enabled()

    def take_parts() -> None:
        with torch.set_grad_enabled(with_gradients):
            for number, part in left:
                results[number] = compute(part)

    others = [_helpers(helping).submit(take_parts) for _ in range(helping)]
    try:
        take_parts()
    finally:
        wait(others)
    for other in others:
        other.result()
    return [results[number] for number in range(len(parts))]


@cache
def _helpers(number: int) -> ThreadPoolExecutor:
    share_memory_between_threads()
    return ThreadPoolExecutor(number, "part", initializer=torch.set_num_threads, initargs=(1,))
