"""Deleting versions and logged models with their files, in an order in which a kill leaves no entry whose files are gone.

MLflow's own deletions leave files to `mlflow gc`, which asks no registry and so breaks versions that name a deleted model.
"""

from __future__ import annotations

import json

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from tasks.registry.artifacts import remove_artifacts
from tasks.registry.lookup import GONE, Version

REMEMBERED = ("store", "run", "content", "checkpoint")


def forget_version(client: MlflowClient, version: Version) -> None:
    """Delete a version's entry, not its files; what the lineage of others needs stays with the registered model.

    Needs the model's lock (`alias_lock`), or an alias may move to the version meanwhile.
    """
    about = {name: version.tags[name] for name in REMEMBERED if name in version.tags} | {"base": version.base or "scratch"}
    client.set_registered_model_tag(version.name, f"{GONE}{version.number}", json.dumps(about))
    client.delete_model_version(version.name, version.number)


def remove_logged_model(client: MlflowClient, model_id: str) -> None:
    """Delete a logged model's files, wherever they lie, and then its entry; one that is gone is fine.

    No version may name it.
    """
    try:
        location = client.get_logged_model(model_id).artifact_location
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return
    remove_artifacts(location)
    client.delete_logged_model(model_id)
