"""Locks between processes, here and on other machines that see the same file: whoever holds one loses it with its process."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ATTEMPTS = 10
"""Whoever only looks whether a lock is held holds it for a moment, so one attempt to get it is not enough."""


@contextmanager
def locked(path: Path, wait: bool = True) -> Iterator[int]:
    """Hold the lock of a folder, or of a file that is made if it is missing, and yield its descriptor.

    A child process that inherits the descriptor holds the lock as well. Without `wait` BlockingIOError is raised where another
    process holds it.
    """
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR | os.O_CREAT, 0o666)
    try:
        if wait:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        else:
            _take(descriptor)
        yield descriptor
    finally:
        os.close(descriptor)


def is_held(path: Path) -> bool:
    """Whether a process holds the lock of this file or folder; nobody holds one that is not there."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def _take(descriptor: int) -> None:
    for left in reversed(range(ATTEMPTS)):
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if not left:
                raise
            time.sleep(0.05)
