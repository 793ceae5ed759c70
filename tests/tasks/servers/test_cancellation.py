"""A cancel in Prefect reaches a run by itself, whoever has started it."""

import os
import signal
import subprocess
import sys
from uuid import UUID

import pytest
from prefect import get_client

import tasks  # noqa: F401  # first: it points Prefect at the tests' workspace
from tasks.runs.flow_run_locks import FlowRunLock
from tasks.servers.cancellation import cancellable
from tasks.workspace.folders import Workspace

CANCEL_ONESELF = """
import sys, time
import tasks
from prefect import flow, get_client
from prefect.context import FlowRunContext
from prefect.states import Cancelling
from tasks.runs.flow_run_locks import FlowRunLock
from tasks.servers import cancellation
from tasks.workspace.folders import Workspace

cancellation.LOOK_INTERVAL = 0.2

def cancel_oneself():
    flow_run = FlowRunContext.get().flow_run.id
    print(flow_run, FlowRunLock.of(Workspace.current(), flow_run).is_held, flush=True)
    with get_client(sync_client=True) as client:
        client.set_flow_run_state(flow_run, Cancelling(), force=True)

@flow
def inside():
    with cancellation.cancellable():
        time.sleep(300)
    print("not cancelled", flush=True)

@flow
def around():
    with cancellation.cancellable():
        cancel_oneself()
        inside()

@flow
def alone():
    with cancellation.cancellable():
        cancel_oneself()
        time.sleep(300)
    print("not cancelled", flush=True)

{"alone": alone, "around": around}[sys.argv[1]]()
"""


@pytest.mark.parametrize("cancelled", ["alone", "around"])
def test_a_cancelled_run_stops_by_itself_and_is_called_cancelled(cancelled: str, prefect_url: str) -> None:
    command, environment = [sys.executable, "-c", CANCEL_ONESELF, cancelled], {**os.environ, "PREFECT_API_URL": prefect_url}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == -signal.SIGTERM, done.stderr  # as Prefect ends what was told to terminate
    flow_run, was_held = done.stdout.splitlines()[0].split()
    assert was_held == "True"
    assert "not cancelled" not in done.stdout
    with get_client(sync_client=True) as client:
        state = client.read_flow_run(UUID(flow_run)).state
    assert state is not None
    assert state.is_cancelled()
    assert not FlowRunLock.of(Workspace.current(), UUID(flow_run)).is_held


def test_outside_of_a_flow_there_is_nothing_to_hear() -> None:
    with cancellable():
        pass
