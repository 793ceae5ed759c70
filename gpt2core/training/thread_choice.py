"""How many threads make an update of a small model on a CPU: one or all of them, whichever is faster just now.

A second thread makes such an update up to 1.8 times as fast on idle cores, and 5 to 10 times as slow on busy ones, where both
wait for each other at every operation. So updates are timed, which are all real ones: nothing is lost by trying. This is done
only where the number of threads changes no bit, so that a resumed run still ends with the same weights.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import torch

from configs.schema import TrainSettings
from gpt2core.kernels import causal_attention, matmul, training_kernels
from gpt2core.machine.devices import SMALLEST_PARALLEL_WIDTH, THREADS
from gpt2core.machine.python_threads import python_threads
from gpt2core.model.gpt2 import GPT2

LOOK_AGAIN = 50
"""A number of threads that was slower is tried again after so many times the time that an update took with it."""
SOONER = 5
"""After so many times that time where it was tried once, which may have been chance; later after 4, 9, ... times as many."""


@contextmanager
def pytorch_threads(number: int) -> Iterator[None]:
    """Inside, PyTorch and our kernels compute on so many threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class ThreadChoice:
    """Finds the fastest of some `numbers` of threads, which `use` makes compute; without any it leaves things alone."""

    def __init__(self, numbers: tuple[int, ...], use: Callable[[int], AbstractContextManager[None]] = pytorch_threads) -> None:
        self._numbers = numbers
        self._use = use
        self._seconds: dict[int, float] = {}
        self._tried_at: dict[int, float] = {}
        self._tries = Counter[int]()
        self._spent = 0.0  # seconds in updates
        self._is_warm = False

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Inside, an update is made, with the number that is chosen for it; afterwards there are as many threads as before."""
        if not self._numbers:
            yield
            return
        number, started = self.next_number(), time.perf_counter()
        with self._use(number):
            yield
        self.note(number, time.perf_counter() - started)

    def next_number(self) -> int:
        """The number of threads for the next update: one that was never tried, or not for long, or else the fastest."""
        for number in self._numbers:
            if number not in self._seconds or self._spent - self._tried_at[number] > self._patience(number):
                return number
        return min(self._numbers, key=self._seconds.__getitem__)

    def _patience(self, number: int) -> float:
        return min(LOOK_AGAIN, SOONER * self._tries[number] ** 2) * self._seconds[number]

    def note(self, number: int, taken: float) -> None:
        """An update took so many seconds with this number; a slower one than before counts by half, since it may be chance."""
        if not self._is_warm:  # the first one prepares what all need
            self._is_warm = True
            return
        known = self._seconds.get(number)
        self._seconds[number] = taken if known is None else min(taken, (known + taken) / 2)
        self._spent += taken
        self._tried_at[number] = self._spent
        self._tries[number] += 1


def choose_from(model: GPT2, settings: TrainSettings, processes: int = 1) -> ThreadChoice:
    """One thread or all for a small `model` on a CPU, where that changes no bit; OMP_NUM_THREADS and processes go before."""
    is_set = "OMP_NUM_THREADS" in os.environ
    if model.by_parts:
        return ThreadChoice((THREADS,) if is_set else (1,) if processes > 1 or THREADS == 1 else (1, THREADS), python_threads)
    may_change = model.config.n_embd < SMALLEST_PARALLEL_WIDTH and not is_set and processes == 1 and THREADS > 1
    return ThreadChoice((1, THREADS) if may_change and changes_no_bit(model, settings) else ())


def changes_no_bit(model: GPT2, settings: TrainSettings) -> bool:
    """Whether all large sums of an update of `model`, as it computes, have an order of their own: by parts or our kernels.

    PyTorch's products and attention promise none. They compute dropout, adapters, Muon and what our kernels do not take.
    """
    weight, config = model.wte.weight, model.config
    window = weight.new_empty(1, config.n_ctx, config.n_embd)
    heads = window.new_empty(1, config.n_ctx, 3, config.n_head, config.n_embd // config.n_head)
    return model.by_parts or (
        matmul.supports(window)
        and causal_attention.supports(heads, documents=model.separator is not None)
        and not (config.dropout or settings.adapts or settings.optimizer == "muon" or settings.compile is True)
    )


def computes_by_parts(model: GPT2, settings: TrainSettings) -> bool:
    """Whether batches are cut into parts: of a small `model`, where PyTorch alone computes on a CPU, and nothing at random."""
    weight, config = model.wte.weight, model.config
    is_plain = weight.device.type == "cpu" and weight.dtype is torch.float32 and not training_kernels.supports(weight)
    at_random = config.dropout or settings.lora.dropout
    return is_plain and config.n_embd < SMALLEST_PARALLEL_WIDTH and not at_random and settings.compile is not True
