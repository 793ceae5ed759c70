"""The worker: takes the flow runs of this workspace's deployments when they are due, nights and evaluations alike.

Each flow run gets a process of its own that lives on when the worker or Prefect's server dies; who comes next finds it by its
lock. Prefect's own runner ends itself, and what it has started, when its server is away for a while.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections import defaultdict
from dataclasses import replace
from datetime import UTC, datetime
from uuid import UUID

import psutil
from httpx import HTTPError
from prefect import get_client
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterTags
from prefect.client.schemas.objects import State, StateType
from prefect.client.schemas.responses import DeploymentResponse, FlowRunResponse, SetStateStatus
from prefect.exceptions import PrefectException
from prefect.states import Pending

from tasks.runs.flow_run_locks import FlowRunLock, all_locks
from tasks.scheduling.night_watch import watch_nights
from tasks.scheduling.recovery import find_flow_run, kill_the_hopeless, policy_of, reconcile_flow_runs, requeue
from tasks.terminal.console import say, warn
from tasks.workspace.folders import Workspace

TAG = "gpt2flow"  # on every deployment that a worker takes
LOOK_INTERVAL = 2.0  # seconds
WATCH_INTERVAL = 60.0  # seconds between looks at flow runs that hang
STOP_PATIENCE = 600.0  # seconds; the update under way and its checkpoint must come to their end
STOPPED = "Stopped together with its worker; it goes on from its last checkpoint when a worker is there again."


class Worker:
    """Starts what is due, mends what has died. All that it must remember is in lock files and in Prefect."""

    def __init__(self, workspace: Workspace, evaluations_at_once: int = 1) -> None:
        self._workspace = workspace
        self._at_once = evaluations_at_once
        self._children: list[subprocess.Popen[bytes]] = []
        self._watched = 0.0
        self._problem = ""
        self._stopping = False

    def request_stop(self) -> None:
        """Let `work` come to its end; for signal handlers."""
        self._stopping = True

    def work(self) -> None:
        """Work until asked to stop, then stop the flow runs too, each with its checkpoint. A lost server is waited for."""
        while not self._stopping:
            try:
                with get_client(sync_client=True) as client:
                    self._look_until_stopped(client)
            except (HTTPError, PrefectException) as error:
                self._note_server(problem=type(error).__name__)
                time.sleep(LOOK_INTERVAL)
        self._stop_flow_runs()

    def _look_until_stopped(self, client: SyncPrefectClient) -> None:
        while not self._stopping:
            self.look(client)
            self._note_server(problem="")
            time.sleep(LOOK_INTERVAL)

    def look(self, client: SyncPrefectClient) -> None:
        """One round: the dead, the hanging, the due."""
        self._children = [child for child in self._children if child.poll() is None]
        mended = reconcile_flow_runs(self._workspace, client)
        for flow_run, state in mended.items():
            warn("recovery", f"flow run {flow_run}: {state.message}")
        if mended:
            self._tell_mlflow()
        if time.monotonic() - self._watched > WATCH_INTERVAL:
            kill_the_hopeless(self._workspace, client)
            watch_nights(self._workspace, client, _deployments(client).values())
            self._watched = time.monotonic()
        self._start_due(client)

    def _start_due(self, client: SyncPrefectClient) -> None:
        deployments = _deployments(client)
        if not deployments:
            return
        due = defaultdict(list)
        for flow_run in client.get_scheduled_flow_runs_for_deployments(list(deployments), datetime.now(UTC)):
            assert flow_run.deployment_id is not None
            if not (deployments[flow_run.deployment_id].paused and comes_by_itself(flow_run)):
                due[flow_run.deployment_id].append(flow_run)
        for deployment, flow_runs in due.items():
            if "config" in deployments[deployment].parameters:
                self._start_night(deployments[deployment], flow_runs, client)
            else:
                self._start_evaluations(deployment, flow_runs, client)

    def _start_evaluations(self, deployment: UUID, due: list[FlowRunResponse], client: SyncPrefectClient) -> None:
        free = self._at_once - len(_alive(self._workspace, deployment, client))
        for flow_run in due[: max(0, free)]:
            self._start(flow_run, client)

    def _start_night(self, deployment: DeploymentResponse, due: list[FlowRunResponse], client: SyncPrefectClient) -> None:
        """One night at a time; of several whose time has come meanwhile the last one makes up for the others."""
        first, missed = choose(due)
        for flow_run in missed:
            _end(flow_run, "Missed", f"It could not begin in time; '{first.name}' makes up for it.", client)
        alive = _alive(self._workspace, deployment.id, client)
        if not alive:
            self._start(first, client)
        elif policy_of(first).when_busy == "skip" and comes_by_itself(first):
            _end(first, "Skipped", f"Flow run {alive[0]} of the same deployment was still under way.", client)

    def _start(self, flow_run: FlowRunResponse, client: SyncPrefectClient) -> None:
        lock = FlowRunLock.of(self._workspace, flow_run.id)
        with lock.taken() as descriptor:
            if descriptor is None or client.set_flow_run_state(flow_run.id, Pending()).status is not SetStateStatus.ACCEPT:
                return  # another worker has it, or it was cancelled
            record = replace(lock.read(), worker=os.getpid(), host=socket.gethostname())
            lock.write(record)
            with lock.log.open("ab") as output:
                child = subprocess.Popen(
                    [sys.executable, "-m", "prefect.engine", str(flow_run.id)],
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                    pass_fds=[descriptor],
                )
            stalled_after = policy_of(flow_run).stalled_after
            lock.write(replace(record, process=child.pid, stalled_after=stalled_after))
        self._children.append(child)
        say("start", f"{flow_run.name}, process {child.pid}; {lock.log}")

    def _tell_mlflow(self) -> None:
        """In a process of its own: MLflow takes more memory than all the rest of a worker."""
        command = [sys.executable, "-m", "flows.cli", "runs", "--reconcile"]
        self._children.append(subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL))

    def _stop_flow_runs(self) -> None:
        """SIGTERM to every flow run that a worker has started which is gone now, and wait for their checkpoints."""
        stopped = [lock for lock in all_locks(self._workspace) if lock.is_held and _is_ours(lock)]
        for lock in stopped:
            say("stop", f"flow run {lock.flow_run}, after the update under way")
            _ask_to_stop(lock.read().process)
        deadline = time.monotonic() + STOP_PATIENCE
        while any(lock.is_held for lock in stopped) and time.monotonic() < deadline:
            time.sleep(0.1)
            for child in self._children:
                child.poll()
        try:
            with get_client(sync_client=True) as client:
                for lock in stopped:
                    requeue(lock.flow_run, client, STOPPED)
        except (HTTPError, PrefectException):
            warn("Prefect", "its server is away: the next worker tells it that flow runs were stopped")

    def _note_server(self, problem: str) -> None:
        if problem and not self._problem:
            warn("Prefect", f"its server is away ({problem}): what trains goes on")
        elif self._problem and not problem:
            say("Prefect", "its server is back")
        self._problem = problem


def choose(due: list[FlowRunResponse]) -> tuple[FlowRunResponse, list[FlowRunResponse]]:
    """Of a deployment's due flow runs the one to start, and those that it makes up for.

    What was begun goes first, then what somebody asked for; of what came by itself only the latest counts.
    """
    begun = [flow_run for flow_run in due if flow_run.run_count]
    by_itself = [flow_run for flow_run in due if comes_by_itself(flow_run)]
    asked = [flow_run for flow_run in due if not flow_run.run_count and not comes_by_itself(flow_run)]
    first = [*begun, *asked, *by_itself[-1:]][0]
    return first, by_itself[:-1]


def comes_by_itself(flow_run: FlowRunResponse) -> bool:
    """Whether a schedule or an event has made the flow run, and nothing of it has begun."""
    by_event = flow_run.created_by is not None and flow_run.created_by.type == "AUTOMATION"
    return (flow_run.auto_scheduled or by_event) and not flow_run.run_count


def _deployments(client: SyncPrefectClient) -> dict[UUID, DeploymentResponse]:
    """Those whose flow runs a worker of this kind takes."""
    wanted = DeploymentFilter(tags=DeploymentFilterTags(all_=[TAG]))
    return {found.id: found for found in client.read_deployments(deployment_filter=wanted) if not found.work_pool_name}


def _alive(workspace: Workspace, deployment: UUID, client: SyncPrefectClient) -> list[UUID]:
    """Flow runs of the deployment that a process works on."""
    held = [find_flow_run(client, lock.flow_run) for lock in all_locks(workspace) if lock.is_held]
    return [flow_run.id for flow_run in held if flow_run and flow_run.deployment_id == deployment]


def _end(flow_run: FlowRunResponse, name: str, message: str, client: SyncPrefectClient) -> None:
    """A flow run that does not take place."""
    say(name.lower(), f"{flow_run.name}: {message}", mark="[dim]-[/]")
    client.set_flow_run_state(flow_run.id, State(type=StateType.CANCELLED, name=name, message=message), force=True)


def _is_ours(lock: FlowRunLock) -> bool:
    """Whether this worker has started the flow run, or one that is gone."""
    record = lock.read()
    here = record.process and record.worker and record.host == socket.gethostname()
    return bool(here and (record.worker == os.getpid() or not psutil.pid_exists(record.worker)))


def _ask_to_stop(process: int) -> None:
    try:
        os.kill(process, signal.SIGTERM)
    except ProcessLookupError:
        return
