"""Versions beyond those that stay, logged models that no version names, artifacts of what was deleted in MLflow."""

from __future__ import annotations

import time
from collections.abc import Iterator
from functools import partial

import mlflow
from mlflow import MlflowClient
from mlflow.entities import LoggedModel, Run, ViewType
from mlflow.exceptions import MlflowException

from configs.errors import UserError
from configs.retention import RetentionSettings
from tasks.maintenance.leftover import Leftover, of_files
from tasks.maintenance.old_records import can_purge, purge
from tasks.maintenance.registry_in_use import RegistryInUse
from tasks.maintenance.runs_in_use import RunsInUse
from tasks.promotion.ledger import ENTRY
from tasks.registry.alias_lock import moving_aliases
from tasks.registry.artifacts import artifact_bytes, remove_artifacts
from tasks.registry.deletion import forget_version, remove_logged_model
from tasks.registry.lookup import Version, aliases_of
from tasks.tracking.mlflow_mirror import KEY
from tasks.workspace.folders import Workspace

PATIENCE = 10.0  # seconds for a model's lock
PAGE = 100


def going_versions(registry: RegistryInUse, settings: RetentionSettings, model: str | None) -> list[Version]:
    """Versions that nothing needs, of all models or of one, as far as they are old enough."""
    youngest = (time.time() - settings.older_than) * 1000
    return [
        version
        for version in registry.versions
        if version.uri not in registry.reasons and version.created < youngest and model in (None, version.name)
    ]


def version_leftovers(client: MlflowClient, registry: RegistryInUse, going: list[Version], keep: int) -> Iterator[Leftover]:
    """Their entries and, unless another version has the same files, their files."""
    staying = {version.logged_model for version in registry.versions if version not in going}
    why = f"no alias, and {keep} newer ones stay" if keep else "no alias"
    for version in going:
        model_id = version.tags["model_id"]
        detach = partial(_forget, client, version)
        if model_id in staying:
            yield Leftover("version", version.uri, f"{why}; another version has its files", 0, detach)
        else:
            delete = partial(remove_logged_model, client, model_id)
            yield Leftover("version", version.uri, why, _size(client, model_id), detach, delete)


def artifact_leftovers(
    workspace: Workspace,
    client: MlflowClient,
    named: set[str],
    runs: RunsInUse,
    settings: RetentionSettings,
    name: str | None,
) -> Iterator[Leftover]:
    """Files of logged models that no version names, and of deleted runs; of all experiments or of that of one name."""
    experiments = [found.experiment_id for found in client.search_experiments() if name in (None, found.name)]
    youngest = (time.time() - settings.older_than) * 1000
    oldest = (time.time() - settings.history) * 1000 if settings.history else 0
    for model in _logged_models(client, experiments):
        if model.model_id not in named and model.creation_timestamp < youngest and _has_ended(client, model, runs):
            size, delete = artifact_bytes(model.artifact_location), partial(remove_logged_model, client, model.model_id)
            yield Leftover("MLflow artifacts", f"logged model {model.model_id}", "no version names it", size, delete=delete)
    for run in _deleted_runs(client, experiments):
        ended = run.info.end_time or run.info.start_time
        size, forget = artifact_bytes(run.info.artifact_uri), ended < oldest and can_purge()
        if ended < youngest and (size or forget):
            delete = partial(purge, client, run.info.run_id) if forget else partial(remove_artifacts, run.info.artifact_uri)
            yield Leftover("MLflow artifacts", f"run {run.info.run_name}", "it was deleted in MLflow", size, delete=delete)
    if mlflow.get_tracking_uri() == workspace.mlflow_database and name is None:
        yield from _files_without_entry(workspace, client, named, youngest)


def _forget(client: MlflowClient, version: Version) -> None:
    """Unless it got an alias just now, by a process that holds nothing here."""
    with moving_aliases(client, version.name, f"removing version {version.number}", PATIENCE):
        if version.number in aliases_of(client, version.name).values():
            raise UserError(f"{version.uri} got an alias just now: run gpt2flow gc again.")
        forget_version(client, version)


def _logged_models(client: MlflowClient, experiments: list[str]) -> Iterator[LoggedModel]:
    """Those that gpt2flow logs."""
    token = None
    while experiments:
        page = client.search_logged_models(experiments, max_results=PAGE, page_token=token)
        yield from (model for model in page if model.name == "model" and "checkpoint" in (model.tags or {}))
        if not (token := page.token):
            return


def _has_ended(client: MlflowClient, model: LoggedModel, runs: RunsInUse) -> bool:
    """Whether its run cannot register it any more."""
    unfinished = {record.mlflow_run_id for run in runs.unfinished if (record := run.folder.read_record())}
    if not model.source_run_id or model.source_run_id in unfinished:
        return False
    try:
        run = client.get_run(model.source_run_id)
    except MlflowException as error:
        return bool(error.error_code == "RESOURCE_DOES_NOT_EXIST")
    return run.info.status == "FINISHED" or run.info.lifecycle_stage == "deleted"


def _deleted_runs(client: MlflowClient, experiments: list[str]) -> Iterator[Run]:
    """Deleted ones that gpt2flow has made."""
    token = None
    while experiments:
        page = client.search_runs(experiments, "", ViewType.DELETED_ONLY, PAGE, page_token=token)
        yield from (run for run in page if KEY in run.data.tags or ENTRY in run.data.tags)
        if not (token := page.token):
            return


def _files_without_entry(workspace: Workspace, client: MlflowClient, named: set[str], youngest: float) -> Iterator[Leftover]:
    """Of logged models that were deleted in MLflow: its database has forgotten them, its artifacts are here."""
    for folder in sorted(workspace.mlflow_artifacts.glob("*/models/m-*")):
        if folder.name in named or folder.stat().st_mtime * 1000 > youngest or _is_known(client, folder.name):
            continue
        row = of_files("MLflow artifacts", f"logged model {folder.name}", "it was deleted in MLflow", [folder], workspace.trash)
        if row.bytes:
            yield row


def _is_known(client: MlflowClient, model_id: str) -> bool:
    try:
        client.get_logged_model(model_id)
    except MlflowException as error:
        return bool(error.error_code != "RESOURCE_DOES_NOT_EXIST")
    return True


def _size(client: MlflowClient, model_id: str) -> int:
    """Bytes of a logged model's files; 0 where it is gone."""
    try:
        return artifact_bytes(client.get_logged_model(model_id).artifact_location)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return 0
