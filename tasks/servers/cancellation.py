"""Stopping a flow by a signal or by a cancel in Prefect's UI, told to Prefect in its own terms."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime

from prefect import get_client
from prefect.client.schemas.objects import FlowRun
from prefect.context import FlowRunContext
from prefect.exceptions import TerminationSignal
from prefect.states import Cancelled

from tasks.runs.flow_run_locks import working_on
from tasks.terminal.console import warn
from tasks.terminal.stop_signals import Interrupted, naming_interruptions, received, stopping_on_signals

LOOK_INTERVAL = 10.0  # seconds
RUNNER_PATIENCE = 30.0  # seconds; Prefect's own `serve` sends SIGTERM sooner, and a second one would end the run at once


@contextmanager
def cancellable() -> Iterator[None]:
    """As `stopping_on_signals`; a cancel in Prefect's UI stops the run as SIGTERM does.

    Every run asks Prefect every few seconds, since who has started it may be dead, or deaf after an outage of the server.
    A SIGTERM from elsewhere makes the run Crashed in Prefect's words. Inside, the flow run's lock is held.
    """
    flow_run = _own_flow_run()
    with stopping_on_signals(), ExitStack() as stack:
        at_once = flow_run is not None and (stack.enter_context(working_on(flow_run.id)) or flow_run.deployment_id is None)
        try:
            with _noticing_cancel(flow_run, 0.0 if at_once else RUNNER_PATIENCE) as cancelled, naming_interruptions():
                yield
        except (Interrupted, TerminationSignal) as stop:  # the latter comes from a flow inside of this one
            if flow_run and cancelled.is_set():
                _call_it_cancelled(flow_run)
            if isinstance(stop, Interrupted) and stop.signal_number == signal.SIGTERM:
                raise TerminationSignal(signal.SIGTERM) from stop
            raise


def _own_flow_run() -> FlowRun | None:
    context = FlowRunContext.get()
    return context.flow_run if context and threading.current_thread() is threading.main_thread() else None


@contextmanager
def _noticing_cancel(flow_run: FlowRun | None, patience: float) -> Iterator[threading.Event]:
    """Inside, a thread looks for a cancel that nobody acts on for so many seconds; the event says that it has found one."""
    cancelled, closing = threading.Event(), threading.Event()
    if flow_run is not None:
        looking = (flow_run, patience, cancelled, closing)
        threading.Thread(target=_look_often, args=looking, name="prefect-cancel", daemon=True).start()
    try:
        yield cancelled
    finally:
        closing.set()


def _look_often(flow_run: FlowRun, patience: float, cancelled: threading.Event, closing: threading.Event) -> None:
    while not closing.wait(LOOK_INTERVAL):
        if _is_cancelled(flow_run, patience) and received() is None and not closing.is_set():
            cancelled.set()
            os.kill(os.getpid(), signal.SIGTERM)
            return


def _is_cancelled(flow_run: FlowRun, patience: float) -> bool:
    with suppress(Exception), get_client(sync_client=True) as client:  # a server that is away is no reason to stop
        state = client.read_flow_run(flow_run.id).state
        if state is not None and (state.is_cancelling() or state.is_cancelled()):
            return (datetime.now(UTC) - state.timestamp).total_seconds() >= patience
    return False


def _call_it_cancelled(flow_run: FlowRun) -> None:
    """Tell Prefect the end that the user asked for; the flow's engine leaves a final state as it is."""
    warn("cancelled", "the run was cancelled in Prefect")
    with suppress(Exception), get_client(sync_client=True) as client:
        client.set_flow_run_state(flow_run.id, Cancelled(), force=True)
    flow_run.state = Cancelled()
