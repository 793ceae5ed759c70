"""A cancel in Prefect reaches a run by itself, whoever has started it."""

import time
from collections.abc import Callable

import pytest
from prefect import flow, get_client
from prefect.context import FlowRunContext
from prefect.exceptions import TerminationSignal
from prefect.states import Cancelling

import tasks  # noqa: F401  # first: it points Prefect at the tests' workspace
from tasks.runs.flow_run_locks import FlowRunLock
from tasks.servers import cancellation
from tasks.servers.cancellation import cancellable
from tasks.workspace.folders import Workspace

SEEN = []


def cancel_oneself() -> None:
    context = FlowRunContext.get()
    assert context is not None and context.flow_run is not None
    SEEN.append(context.flow_run.id)
    assert FlowRunLock.of(Workspace.current(), context.flow_run.id).is_held
    with get_client(sync_client=True) as client:
        client.set_flow_run_state(context.flow_run.id, Cancelling(), force=True)


@flow
def alone() -> None:
    with cancellable():
        cancel_oneself()
        time.sleep(60)


@flow
def inside() -> None:
    with cancellable():
        time.sleep(60)


@flow
def around() -> None:
    with cancellable():
        cancel_oneself()
        inside()


@pytest.mark.parametrize("cancelled", [alone, around], ids=["alone", "with a flow inside"])
def test_a_cancelled_run_stops_by_itself_and_is_called_cancelled(
    cancelled: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    Workspace.current().create()
    monkeypatch.setattr(cancellation, "LOOK_INTERVAL", 0.2)
    begun = time.monotonic()
    with pytest.raises(TerminationSignal):
        cancelled()
    assert time.monotonic() - begun < 50
    with get_client(sync_client=True) as client:
        state = client.read_flow_run(SEEN[-1]).state
    assert state is not None
    assert state.is_cancelled()
    assert not FlowRunLock.of(Workspace.current(), SEEN[-1]).is_held
