"""SIGTERM and Ctrl-C: the first one ends the run in good order, the second one ends the process at once."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

STOPPING = (signal.SIGINT, signal.SIGTERM)
HEARD = "\n … stopping     {when}; a second signal (Ctrl-C) ends the process at once\n"


class Interrupted(KeyboardInterrupt):
    """The run was asked to stop by a signal; not an error, so not an Exception."""

    def __init__(self, signal_number: int) -> None:
        super().__init__(f"stopped by {signal.Signals(signal_number).name}")
        self.signal_number = signal_number


class _Requests:
    """What this process was asked to do; signals belong to the process, so there is one of these."""

    def __init__(self) -> None:
        self.depth = 0
        self.received: int | None = None
        self.advised = False
        self.finish: list[tuple[Callable[[], None], str]] = []

    def stop(self, number: int, _: FrameType | None) -> None:
        """The handler: the next signal, whatever the process is busy with, ends it by the system's own handler."""
        for each in STOPPING:
            signal.signal(each, signal.SIG_DFL)
        self.received = number
        if not self.finish:
            raise Interrupted(number)
        ask, when = self.finish[-1]
        ask()
        with suppress(OSError):
            os.write(2, HEARD.format(when=when).encode())  # a handler may interrupt a print, so it must not print itself


_requests = _Requests()


def received() -> int | None:
    """The signal that asked this process to stop."""
    return _requests.received


def note_advice() -> None:
    """The user was told how to go on."""
    _requests.advised = True


def advised() -> bool:
    """Whether the user was told how to go on."""
    return _requests.advised


@contextmanager
def stopping_on_signals() -> Iterator[None]:
    """Inside, the first signal raises Interrupted, or asks the work to end where that stands inside `finishing`."""
    if threading.current_thread() is not threading.main_thread():
        yield  # signals reach the main thread only
        return
    if not _requests.depth:
        _requests.received, _requests.advised = None, False
    _requests.depth += 1
    before = {number: signal.signal(number, _requests.stop) for number in STOPPING}
    try:
        yield
    finally:
        _requests.depth -= 1
        if _requests.received is None or not _requests.depth:
            for number, handler in before.items():
                signal.signal(number, handler)


@contextmanager
def naming_interruptions() -> Iterator[None]:
    """Whatever a library makes of an interruption in the middle of its own work (Prefect's engine fails in its clean-up) is
    Interrupted all the same."""
    try:
        yield
    except Exception as error:
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, Interrupted):
            cause = cause.__cause__ or cause.__context__
        if cause is not None:
            raise Interrupted(cause.signal_number) from error
        raise


@contextmanager
def keeping_handlers() -> Iterator[None]:
    """What is done inside does not change what a signal does afterwards: libraries install handlers of their own."""
    if threading.current_thread() is not threading.main_thread():
        yield  # they cannot
        return
    before = {number: signal.getsignal(number) for number in STOPPING}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def finishing(ask: Callable[[], None], when: str = "after this update, with a checkpoint") -> Iterator[None]:
    """Inside, a signal only calls `ask`, so that the work comes to a good end; then Interrupted is raised.

    `when` that will be is said to whoever sent the signal.
    """
    _requests.finish.append((ask, when))
    try:
        yield
    finally:
        _requests.finish.pop()
    if _requests.received is not None:
        raise Interrupted(_requests.received)
