"""Brings Prefect's states into line with which flow runs are alive: the dead are resumed, or called what they are."""

from __future__ import annotations

import os
import signal
import socket
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import UUID

from httpx import HTTPError
from prefect import get_client
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterId,
    TaskRunFilter,
    TaskRunFilterState,
    TaskRunFilterStateType,
)
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.client.schemas.responses import FlowRunResponse, SetStateStatus
from prefect.exceptions import ObjectNotFound
from prefect.states import AwaitingRetry, Cancelled, Crashed

from configs.schedule import ScheduleSettings
from tasks.runs.flow_run_locks import FlowRunLock, all_locks
from tasks.scheduling.night_watch import tell_of_death
from tasks.terminal.console import warn
from tasks.workspace.folders import Workspace

CANCEL_PATIENCE = 600.0  # seconds; the update under way and its checkpoint must come to their end, as with gpt2flow stop


def reconcile_flow_runs(workspace: Workspace, client: SyncPrefectClient) -> dict[UUID, State]:
    """Mend the states of flow runs whose process has died; returns the new ones.

    One that a deployment has started is resumed under the same id, after a back-off and only so often, as its config says;
    any other is called Crashed, or Cancelled if that was asked for.
    """
    mended = {}
    for lock in [lock for lock in all_locks(workspace) if not lock.is_held]:
        with lock.taken() as descriptor:
            if descriptor is not None and (state := _mend(lock, client)):
                mended[lock.flow_run] = state
    return mended


def mend_what_died(workspace: Workspace) -> None:
    """As `reconcile_flow_runs`, before a run that is started by hand; a server that is lost is no reason not to begin."""
    if all_locks(workspace):
        with suppress(HTTPError), get_client(sync_client=True) as client:
            reconcile_flow_runs(workspace, client)


def kill_the_hopeless(workspace: Workspace, client: SyncPrefectClient) -> list[UUID]:
    """Kill flow runs that hang: no progress for as long as their config allows, or deaf to a cancel."""
    killed = []
    for lock in all_locks(workspace):
        record = lock.read()
        if not lock.is_held or record.host != socket.gethostname() or not record.process:
            continue
        if reason := _hopeless(lock, client):
            warn("recovery", f"flow run {lock.flow_run} {reason}: its process {record.process} is killed")
            _kill(record.process)
            killed.append(lock.flow_run)
    return killed


def requeue(flow_run: UUID, client: SyncPrefectClient, message: str) -> None:
    """Let a flow run that was stopped in good order begin again as soon as a worker is there; ended ones stay as they are."""
    found = find_flow_run(client, flow_run)
    state = found.state if found else None
    if state and not (state.is_completed() or state.is_failed() or state.is_cancelled() or state.is_cancelling()):
        _set(client, flow_run, AwaitingRetry(scheduled_time=datetime.now(UTC), message=message))


def find_flow_run(client: SyncPrefectClient, flow_run: UUID) -> FlowRun | None:
    """The flow run; None where this server does not know it."""
    try:
        return client.read_flow_run(flow_run)
    except ObjectNotFound:
        return None


def policy_of(flow_run: FlowRun | FlowRunResponse) -> ScheduleSettings:
    """How the flow run's config wants it to be treated."""
    return ScheduleSettings.model_validate(flow_run.parameters.get("config", {}).get("schedule", {}))


def _mend(lock: FlowRunLock, client: SyncPrefectClient) -> State | None:
    """The new state of a flow run without a process; None where it has come to its end, or waits to be started."""
    flow_run = find_flow_run(client, lock.flow_run)
    if flow_run is None:
        lock.remove()
        return None
    state = flow_run.state
    if state is None or state.is_scheduled() or state.is_paused():
        return None
    if state.is_final() and not (state.is_crashed() and flow_run.deployment_id):
        lock.remove()
        return None
    new = (
        Cancelled(message="Cancelled; its process had ended.") if state.is_cancelling() else _resumed_or_crashed(lock, flow_run)
    )
    if new.is_final():
        lock.remove()
    _set(client, flow_run.id, new)
    _end_stages(client, flow_run.id)
    if not new.is_cancelled():
        tell_of_death(flow_run, new)
    return new


def _resumed_or_crashed(lock: FlowRunLock, flow_run: FlowRun) -> State:
    policy, record = policy_of(flow_run), lock.read()
    deaths = record.deaths + 1
    if not flow_run.deployment_id:
        return Crashed(message="Its process was killed; the same command goes on from the last checkpoint.")
    if not _is_resumable(flow_run) or deaths >= policy.attempts:
        return Crashed(message=f"Its process has died {deaths} time{'s' if deaths > 1 else ''}, so it is given up.")
    lock.write(replace(record, deaths=deaths, process=0))
    wait = policy.back_off * 2 ** (deaths - 1)
    message = f"Its process has died (attempt {deaths} of {policy.attempts}); it goes on from its last checkpoint in {wait} s."
    return AwaitingRetry(scheduled_time=datetime.now(UTC) + timedelta(seconds=wait), message=message)


def _is_resumable(flow_run: FlowRun) -> bool:
    """An evaluation is not: the run that waits for it has it made elsewhere."""
    return "config" in flow_run.parameters


def _hopeless(lock: FlowRunLock, client: SyncPrefectClient) -> str:
    allowed, idle = lock.read().stalled_after, lock.seconds_without_progress
    if allowed and idle > allowed:
        return f"has not come on for {idle / 60:.0f} minutes"
    flow_run = find_flow_run(client, lock.flow_run) if idle > CANCEL_PATIENCE else None
    state = flow_run.state if flow_run else None
    waited = (datetime.now(UTC) - state.timestamp).total_seconds() if state and state.is_cancelling() else 0.0
    return "does not hear that it was cancelled" if waited > CANCEL_PATIENCE else ""


def _kill(process: int) -> None:
    """With everything that it has started; a worker gives each flow run a process group of its own."""
    try:
        group = os.getpgid(process)
        os.killpg(group, signal.SIGKILL) if group == process else os.kill(process, signal.SIGKILL)
    except ProcessLookupError:
        return


def _end_stages(client: SyncPrefectClient, flow_run: UUID) -> None:
    """What was under way when the process died would be shown as running for ever."""
    under_way = TaskRunFilterState(type=TaskRunFilterStateType(any_=[StateType.PENDING, StateType.RUNNING]))
    of_it = FlowRunFilter(id=FlowRunFilterId(any_=[flow_run]))
    for stage in client.read_task_runs(flow_run_filter=of_it, task_run_filter=TaskRunFilter(state=under_way)):
        client.set_task_run_state(stage.id, Crashed(message="The flow run's process has died."), force=True)


def _set(client: SyncPrefectClient, flow_run: UUID, state: State) -> None:
    """By Prefect's rules where they allow it, since those give back the slots of concurrency limits, and in any case."""
    if client.set_flow_run_state(flow_run, state).status is not SetStateStatus.ACCEPT:
        client.set_flow_run_state(flow_run, state, force=True)
