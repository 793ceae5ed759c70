"""What tells of a run long after: its folder with logs and samples, its run in MLflow with curves. Goes only if asked for."""

from __future__ import annotations

import time
from collections.abc import Iterable
from functools import partial

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.tracking._tracking_service.utils import _get_store

from configs.retention import DAY, RetentionSettings
from tasks.maintenance.leftover import Leftover, discard, freed_by
from tasks.maintenance.runs_in_use import KnownRun, RunsInUse
from tasks.registry.artifacts import remove_artifacts
from tasks.registry.lookup import Version
from tasks.workspace.folders import Workspace


def forgotten_runs(use: RunsInUse, staying: Iterable[Version], settings: RetentionSettings, name: str | None) -> list[KnownRun]:
    """Of all runs, or of those of one name: those of long ago that nothing needs and no version that stays comes from."""
    if settings.history is None:
        return []
    kept = use.reasons.keys() | {version.tags.get("run") for version in staying}
    ended = [run for run in use.runs if not run.is_unfinished and run.folder.id not in kept and name in (None, run.name)]
    return [run for run in ended if time.time() - run.worked_on > settings.history]


def record_leftover(workspace: Workspace, client: MlflowClient, run: KnownRun) -> Leftover:
    """All that there is of the run, checkpoints too."""
    days = (time.time() - run.worked_on) / DAY
    known = record.mlflow_run_id if (record := run.folder.read_record()) else None
    return Leftover(
        "record",
        f"run {run.folder.id}",
        f"no version comes from it, {days:,.0f} days old",
        freed_by([run.folder.path]),
        partial(_forget, workspace, client, run, known),
        partial(purge, client, known),
    )


def can_purge() -> bool:
    """Whether MLflow's database itself is used here: its clients cannot remove a run's rows, and `mlflow gc` takes more."""
    return hasattr(_get_store(), "_hard_delete_run")  # type: ignore[no-untyped-call]


def purge(client: MlflowClient, run_id: str | None) -> None:
    """Remove a run that was deleted in MLflow, with its files; behind a server its rows stay for `mlflow gc` there."""
    if run_id is None:
        return
    try:
        remove_artifacts(client.get_run(run_id).info.artifact_uri)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return
    if can_purge():
        _get_store()._hard_delete_run(run_id)  # type: ignore[no-untyped-call]


def _forget(workspace: Workspace, client: MlflowClient, run: KnownRun, known: str | None) -> None:
    """Its run in MLflow counts as deleted before the folder goes, or nobody would find it again."""
    if known is not None:
        try:
            client.delete_run(known)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
    discard([run.folder.path], workspace.trash)
