"""Whether processes on other machines are there: each counts up in the first one's store, and ends where it cannot any more."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from queue import Empty, SimpleQueue

import torch.distributed as dist

LOST = 3
"""Exit code of a process whose first one is gone, or which has lost another one."""

INTERVAL = 1.0  # seconds


def show_pulse(connect: Callable[[], dist.Store], rank: int, limit: float) -> None:  # type: ignore[name-defined]
    """Of the others: count from now on, through a connection of its own; end this process where nothing arrives for `limit`
    seconds.

    A cut line is silent: whoever waits at it for an answer would do so for a quarter of an hour.
    """
    beats = SimpleQueue[None]()
    threading.Thread(target=_beat, args=(connect, rank, beats), daemon=True).start()
    threading.Thread(target=_watch, args=(beats, limit), daemon=True).start()


def _beat(connect: Callable[[], dist.Store], rank: int, beats: SimpleQueue[None]) -> None:  # type: ignore[name-defined]
    with suppress(RuntimeError):  # the first process is gone, which whoever waits for it notices too
        store = connect()
        while True:
            store.add(_key(rank), 1)
            beats.put(None)
            time.sleep(INTERVAL)


def _watch(beats: SimpleQueue[None], limit: float) -> None:
    with suppress(Empty):
        while True:
            beats.get(timeout=limit)
    print(f"The first process has not been reached for {limit:g} s: this one ends.", file=sys.stderr, flush=True)
    os._exit(LOST)


class Pulses:
    """Of the first process: which of the others have shown no pulse for `limit` seconds."""

    def __init__(self, store: dist.Store, size: int, limit: float) -> None:  # type: ignore[name-defined]
        self._store = store
        self._limit = limit
        self._seen = {rank: (0, time.monotonic()) for rank in range(1, size)}

    def ended(self) -> dict[int, str]:
        """Those, and how they are lost."""
        now = time.monotonic()
        for rank, (count, _) in self._seen.items():
            if (new := self._store.add(_key(rank), 0)) != count:
                self._seen[rank] = (new, now)
        silent = [rank for rank, (_, seen) in self._seen.items() if now - seen > self._limit]
        return dict.fromkeys(silent, f"has not answered for {self._limit:g} s")


def _key(rank: int) -> str:
    return f"pulse/{rank}"
