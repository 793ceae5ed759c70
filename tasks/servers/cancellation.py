"""Stopping a flow by a signal or by a cancel in Prefect's UI, told to Prefect in its own terms."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from uuid import UUID

from prefect import get_client
from prefect.context import FlowRunContext
from prefect.exceptions import TerminationSignal
from prefect.states import Cancelled

from tasks.terminal.console import warn
from tasks.terminal.stop_signals import Interrupted, received, stopping_on_signals

LOOK_INTERVAL = 10.0  # seconds


@contextmanager
def cancellable() -> Iterator[None]:
    """As `stopping_on_signals`; a cancel in Prefect's UI stops the run as SIGTERM does.

    Where a worker or `serve` has started the run, they send that SIGTERM, and Prefect calls the run Cancelled. A run that
    was started by hand asks Prefect every few seconds. A SIGTERM from elsewhere makes the run Crashed in Prefect's words.
    """
    with stopping_on_signals():
        try:
            with _noticing_cancel() as cancelled:
                yield
        except Interrupted as stop:
            if cancelled.is_set():
                _call_it_cancelled()
            if stop.signal_number == signal.SIGTERM:
                raise TerminationSignal(signal.SIGTERM) from stop
            raise


@contextmanager
def _noticing_cancel() -> Iterator[threading.Event]:
    """Inside, a thread looks for a cancel that nobody else acts on; the event says that it has found one."""
    cancelled, closing = threading.Event(), threading.Event()
    run_id = _run_started_by_hand()
    if run_id is not None:
        threading.Thread(target=_look_often, args=(run_id, cancelled, closing), name="prefect-cancel", daemon=True).start()
    try:
        yield cancelled
    finally:
        closing.set()


def _run_started_by_hand() -> UUID | None:
    context = FlowRunContext.get()
    flow_run = context.flow_run if context else None
    by_hand = flow_run is not None and flow_run.deployment_id is None
    return flow_run.id if flow_run and by_hand and threading.current_thread() is threading.main_thread() else None


def _look_often(run_id: UUID, cancelled: threading.Event, closing: threading.Event) -> None:
    while not closing.wait(LOOK_INTERVAL):
        if _is_cancelled(run_id) and received() is None and not closing.is_set():
            cancelled.set()
            os.kill(os.getpid(), signal.SIGTERM)
            return


def _is_cancelled(run_id: UUID) -> bool:
    with suppress(Exception), get_client(sync_client=True) as client:  # a server that is away is no reason to stop
        state = client.read_flow_run(run_id).state
        return state is not None and (state.is_cancelling() or state.is_cancelled())
    return False


def _call_it_cancelled() -> None:
    """Tell Prefect the end that the user asked for; the flow's engine leaves a final state as it is."""
    flow_run = FlowRunContext.get().flow_run  # type: ignore[union-attr]
    assert flow_run is not None
    warn("cancelled", "the run was cancelled in Prefect")
    with suppress(Exception), get_client(sync_client=True) as client:
        client.set_flow_run_state(flow_run.id, Cancelled(), force=True)
    flow_run.state = Cancelled()
