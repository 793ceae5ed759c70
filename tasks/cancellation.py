"""Stopping a flow by a signal, told to Prefect in its own terms: a worker that cancels a flow run sends SIGTERM."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager

from prefect.exceptions import TerminationSignal

from tasks.stop_signals import Interrupted, stopping_on_signals


@contextmanager
def cancellable() -> Iterator[None]:
    """As `stopping_on_signals`; Prefect then calls the flow run Cancelled if its worker asked for that, else Crashed."""
    with stopping_on_signals():
        try:
            yield
        except Interrupted as stop:
            if stop.signal_number == signal.SIGTERM:
                raise TerminationSignal(signal.SIGTERM) from stop
            raise
