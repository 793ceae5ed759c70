"""Tells MLflow how runs ended whose process could not: it was killed, or MLflow was away."""

from __future__ import annotations

from contextlib import suppress
from typing import Literal

from configs.errors import UserError
from tasks.runs.find import all_runs
from tasks.runs.run_folder import RunFolder, RunState
from tasks.workspace.folders import Workspace

Outcome = Literal["FINISHED", "FAILED", "KILLED"]
AWAY = "not delivered"
OUTCOMES: dict[RunState, Outcome] = {"finished": "FINISHED", "failed": "FAILED", "stopped": "KILLED"}


def reconcile(workspace: Workspace, everything: bool = False) -> dict[str, str]:
    """Deliver what MLflow missed of runs that nobody works on, and their true status; returns what was done, by run.

    Only runs that did not get there themselves, or `everything`: also those whose delivery is on record.
    """
    done = {}
    for run in all_runs(workspace):
        if run.state() == "running" or not (everything or run.read("tracking").get("status") == "RUNNING"):
            continue
        with suppress(UserError):  # somebody started to work on it just now
            done[run.id] = _settle(run)
            if done[run.id].startswith(AWAY) and not _mlflow_answers():
                break  # the others would wait for it in vain as well
    return done


def _settle(run: RunFolder) -> str:
    from tasks.tracking.mlflow_mirror import Tracking  # MLflow takes seconds to import, and mostly there is nothing to do

    with run.locked():
        outcome = OUTCOMES[run.outcome()]
        run.write("tracking", {"status": "RUNNING"})
        problem = Tracking(run).settle(outcome)
    return f"{AWAY}: {problem}" if problem else outcome


def _mlflow_answers() -> bool:
    """Whether the reason lies in the one run, of which a file may be lost."""
    from mlflow import MlflowClient, MlflowException

    try:
        MlflowClient().search_experiments(max_results=1)
    except (MlflowException, OSError):
        return False
    return True
