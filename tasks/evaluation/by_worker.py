"""Evaluating a checkpoint in a Prefect flow run of its own, which a worker takes, perhaps on another machine.

Prefect hands the work over and says how that goes; the figures come back through the run's folder, which both see. Whatever
goes wrong on the way, a process on this machine evaluates the step in the end.
"""

from __future__ import annotations

import time
from contextlib import suppress
from uuid import UUID

from httpx import HTTPError
from prefect import get_client
from prefect.client.schemas.objects import DeploymentStatus, FlowRun, State, StateType
from prefect.deployments import run_deployment
from prefect.exceptions import ObjectNotFound
from prefect.states import Cancelled

from tasks.evaluation.checkpoint import EvaluationRow, identity, is_under_way, take_row
from tasks.evaluation.deployment import DEPLOYMENT, FLOW
from tasks.evaluation.in_process import ProcessEvaluation
from tasks.runs.flow_run_locks import FlowRunLock
from tasks.runs.run_folder import RunFolder
from tasks.terminal.console import warn
from tasks.workspace.folders import Workspace

LOOK_INTERVAL = 0.5  # seconds
PATIENCE = {
    StateType.SCHEDULED: (30.0, "no worker has taken it"),  # one looks every two seconds
    StateType.PENDING: (120.0, "its worker does not come to it"),  # a busy machine takes long to start a process
    StateType.RUNNING: (10.0, "its worker has died"),
    None: (120.0, "Prefect's server does not answer"),
}
"""For each state of a flow run that gives no sign of life: seconds after which it is given up, and what is said then."""


class WorkerEvaluation:
    """One evaluation that waits for a worker or is under way there."""

    def __init__(self, folder: RunFolder, step: int, flow_run: UUID) -> None:
        self.step = step
        self._folder = folder
        self.flow_run = flow_run
        self._alive = time.monotonic()

    def join(self) -> EvaluationRow:
        """Wait for the row of figures; raises UserError where neither a worker nor a process here can evaluate the step."""
        while True:
            problem = self._problem()  # asked first: what a flow run that has ended has left is there then
            if (row := take_row(self._folder, self.step)) is not None:
                return row
            if problem:
                self._cancel()
                return _here(self._folder, self.step, problem).join()
            time.sleep(LOOK_INTERVAL)

    def stop(self) -> None:
        """Leave it alone: the next start of the run takes what the worker has found."""

    def _problem(self) -> str:
        """Why nothing is to be expected of the worker; empty as long as something is."""
        at_work = FlowRunLock.of(Workspace.current(), self.flow_run).is_held  # also while it still loads PyTorch
        if at_work or is_under_way(self._folder, self.step):
            self._alive = time.monotonic()
            return ""
        state = self._state()
        if state and state.is_final():
            return f"the worker's flow run has ended as {state.name} {state.message or ''}".strip()
        seconds, problem = PATIENCE.get(state.type if state else None, PATIENCE[None])
        return problem if time.monotonic() - self._alive > seconds else ""

    def _state(self) -> State | None:
        with suppress(Exception), get_client(sync_client=True) as client:  # a server that is away is no reason to stop
            return client.read_flow_run(self.flow_run).state
        return None

    def _cancel(self) -> None:
        """So that no worker takes it later."""
        with suppress(Exception), get_client(sync_client=True) as client:
            client.set_flow_run_state(self.flow_run, Cancelled(), force=True)


def hand_to_worker(folder: RunFolder, step: int) -> WorkerEvaluation | ProcessEvaluation:
    """Give the evaluation of the step's checkpoint to whoever serves the deployment; where nobody does it begins here."""
    name = f"{FLOW}/{DEPLOYMENT}"
    try:
        with get_client(sync_client=True) as client:
            ready = client.read_deployment_by_name(name).status is DeploymentStatus.READY
        if not ready:
            return _here(folder, step, "no worker is there")
        # The key lets a run that was killed and started again find the flow run that it began.
        key, parameters = identity(folder, step), {"run": folder.id, "step": step}
        flow_run = run_deployment(name, parameters=parameters, timeout=0, idempotency_key=key)
    except ObjectNotFound:
        return _here(folder, step, "no worker is there")
    except HTTPError as error:
        return _here(folder, step, f"Prefect's server did not take it ({type(error).__name__})")
    assert isinstance(flow_run, FlowRun)  # its coroutine is for asynchronous callers
    return WorkerEvaluation(folder, step, flow_run.id)


def _here(folder: RunFolder, step: int, problem: str) -> ProcessEvaluation:
    warn("evaluation", f"step {step}: {problem} (gpt2flow worker starts one), so a process on this machine evaluates it")
    return ProcessEvaluation(folder, step)
