"""Flow runs on a real Prefect server whose processes have died, hang or live."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest
from prefect import flow, get_client, task
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.objects import FlowRun, State
from prefect.client.schemas.responses import SetStateStatus
from prefect.states import Cancelling, Completed, Crashed, Pending, Running, Scheduled

import tasks  # noqa: F401  # first: it points Prefect at the tests' workspace
from tasks.runs.flow_run_locks import FlowRunLock, Record
from tasks.scheduling.recovery import kill_the_hopeless, mend_what_died, reconcile_flow_runs, requeue
from tasks.workspace.folders import Workspace

SCHEDULE = {"attempts": 3, "back_off": 60}


@flow
def night(config: dict[str, Any]) -> None:
    """Stands for the flow; nothing runs here."""


@task
def stage() -> None:
    """Stands for one of the flow's."""


@pytest.fixture(scope="module")
def client() -> Iterator[SyncPrefectClient]:
    Workspace.current().create()
    with get_client(sync_client=True) as client:
        yield client


@pytest.fixture(scope="module")
def deployment(client: SyncPrefectClient) -> UUID:
    """A deployment of which Prefect lets one run at a time."""
    parameters = {"config": {"schedule": SCHEDULE}}
    return client.create_deployment(client.create_flow(night), "limited", parameters=parameters, concurrency_limit=1)


@pytest.fixture(autouse=True)
def no_locks() -> Iterator[None]:
    yield
    for file in Workspace.current().flow_runs.glob("*"):
        file.unlink()


def begun(client: SyncPrefectClient, deployment: UUID, state: State, deaths: int = 0) -> tuple[FlowRun, FlowRunLock]:
    """A flow run in that state, and its lock, which nobody holds."""
    flow_run = client.create_flow_run_from_deployment(deployment)
    client.set_flow_run_state(flow_run.id, state, force=True)
    lock = FlowRunLock.of(Workspace.current(), flow_run.id)
    with lock.taken():
        lock.write(Record(deaths=deaths))
    return flow_run, lock


def state_of(client: SyncPrefectClient, flow_run: FlowRun) -> State:
    state = client.read_flow_run(flow_run.id).state
    assert state is not None
    return state


@pytest.mark.parametrize("state", [Pending(), Running(), Crashed()], ids=lambda state: str(state.name))
def test_a_dead_night_is_resumed_after_a_back_off(client: SyncPrefectClient, deployment: UUID, state: State) -> None:
    flow_run, lock = begun(client, deployment, state)
    assert list(reconcile_flow_runs(Workspace.current(), client)) == [flow_run.id]
    found = state_of(client, flow_run)
    assert found.name == "AwaitingRetry"
    assert found.state_details.scheduled_time is not None
    assert 40 < (found.state_details.scheduled_time - datetime.now(UTC)).total_seconds() <= 60
    assert lock.read().deaths == 1
    assert reconcile_flow_runs(Workspace.current(), client) == {}


def test_a_stage_that_was_under_way_does_not_run_for_ever(client: SyncPrefectClient, deployment: UUID) -> None:
    flow_run, _ = begun(client, deployment, Running())
    stages = [client.create_task_run(stage, flow_run.id, str(each.type), state=each) for each in (Running(), Completed())]
    reconcile_flow_runs(Workspace.current(), client)
    states = [client.read_task_run(each.id).state for each in stages]
    assert [state.type.value for state in states if state] == ["CRASHED", "COMPLETED"]


def test_each_death_doubles_the_wait_and_the_last_attempt_gives_up(client: SyncPrefectClient, deployment: UUID) -> None:
    flow_run, lock = begun(client, deployment, Running(), deaths=1)
    reconcile_flow_runs(Workspace.current(), client)
    assert "goes on from its last checkpoint in 120 s" in str(state_of(client, flow_run).message)
    client.set_flow_run_state(flow_run.id, Running(), force=True)
    reconcile_flow_runs(Workspace.current(), client)
    assert state_of(client, flow_run).is_crashed()
    assert "died 3 times" in str(state_of(client, flow_run).message)
    assert not lock.path.exists()


def test_a_cancel_that_nobody_heard_is_carried_out(client: SyncPrefectClient, deployment: UUID) -> None:
    flow_run, lock = begun(client, deployment, Cancelling())
    reconcile_flow_runs(Workspace.current(), client)
    assert state_of(client, flow_run).is_cancelled()
    assert not lock.path.exists()


def test_what_lives_or_has_ended_keeps_its_state(client: SyncPrefectClient, deployment: UUID) -> None:
    (alive, lock), (ended, left) = begun(client, deployment, Running()), begun(client, deployment, Completed())
    with lock.taken():
        assert reconcile_flow_runs(Workspace.current(), client) == {}
    assert state_of(client, alive).is_running()
    assert state_of(client, ended).is_completed()
    assert not left.path.exists()
    client.set_flow_run_state(alive.id, Completed(), force=True)


def test_a_dead_nights_slot_is_free_at_once(client: SyncPrefectClient, deployment: UUID) -> None:
    flow_run = client.create_flow_run_from_deployment(deployment)
    waiting = client.create_flow_run_from_deployment(deployment)
    for state in (Pending(), Running()):
        assert client.set_flow_run_state(flow_run.id, state).status is SetStateStatus.ACCEPT
    assert client.set_flow_run_state(waiting.id, Pending()).status is not SetStateStatus.ACCEPT
    with FlowRunLock.of(Workspace.current(), flow_run.id).taken():
        pass
    reconcile_flow_runs(Workspace.current(), client)
    client.set_flow_run_state(waiting.id, Scheduled(), force=True)
    assert client.set_flow_run_state(waiting.id, Pending()).status is SetStateStatus.ACCEPT
    client.set_flow_run_state(waiting.id, Completed())


def test_a_dead_run_that_was_started_by_hand_is_called_crashed(client: SyncPrefectClient) -> None:
    flow_run = client.create_flow_run(night, parameters={"config": {}}, state=Running())
    with FlowRunLock.of(Workspace.current(), flow_run.id).taken():
        pass
    mend_what_died(Workspace.current())
    assert state_of(client, flow_run).is_crashed()
    assert "the same command goes on" in str(state_of(client, flow_run).message)


def test_a_night_without_progress_is_killed(client: SyncPrefectClient, deployment: UUID) -> None:
    flow_run, lock = begun(client, deployment, Running())
    with lock.taken() as descriptor:
        assert descriptor is not None
        code = [sys.executable, "-c", "import time; time.sleep(600)"]
        hanging = subprocess.Popen(code, pass_fds=[descriptor], start_new_session=True)
        lock.write(Record(process=hanging.pid, host=socket.gethostname(), stalled_after=100))
    assert kill_the_hopeless(Workspace.current(), client) == []
    os.utime(lock.path, (0, 0))
    assert kill_the_hopeless(Workspace.current(), client) == [flow_run.id]
    assert hanging.wait(10) == -9
    reconcile_flow_runs(Workspace.current(), client)
    assert state_of(client, flow_run).name == "AwaitingRetry"


def test_what_was_stopped_in_good_order_begins_again_without_a_wait(client: SyncPrefectClient, deployment: UUID) -> None:
    (stopped, lock), (ended, _) = begun(client, deployment, Crashed()), begun(client, deployment, Completed())
    for flow_run in (stopped, ended):
        requeue(flow_run.id, client, "Stopped.")
    found = state_of(client, stopped)
    assert found.name == "AwaitingRetry"
    assert found.state_details.scheduled_time is not None
    assert found.state_details.scheduled_time <= datetime.now(UTC)
    assert lock.read().deaths == 0
    assert state_of(client, ended).is_completed()
