"""Files of registered models: where they lie, or a copy in the workspace of those that lie on S3 or behind MLflow's server.

MLflow by itself would fetch them anew each time, into temporary folders that nobody removes.
"""

from __future__ import annotations

import hashlib
import os
import time
from pathlib import Path
from urllib.parse import urlsplit

import mlflow
from mlflow.store.artifact.models_artifact_repo import ModelsArtifactRepository

from gpt2core.machine.durable import publish_folder, remove_folder
from gpt2core.machine.lock import locked
from tasks.workspace.folders import Workspace

KEPT = 7 * 86400.0
"""Seconds after which a copy goes that nobody has asked for."""


def registered_model_folder(workspace: Workspace, uri: str) -> Path:
    """Folder of a registered model's files; `uri` is models:/NAME@ALIAS or models:/NAME/VERSION.

    Raises MlflowException or OSError where there is no such model or its files cannot be reached.
    """
    location: str = ModelsArtifactRepository.get_underlying_uri(uri)  # type: ignore[no-untyped-call]
    if urlsplit(location).scheme in ("", "file"):
        return Path(mlflow.artifacts.download_artifacts(uri))
    copies = workspace.fetched_models
    copies.mkdir(parents=True, exist_ok=True)
    copy = copies / hashlib.sha256(location.encode()).hexdigest()[:32]  # files at a location never change
    with locked(copies):
        if not copy.is_dir():
            with publish_folder(copy) as folder:
                mlflow.artifacts.download_artifacts(uri, dst_path=str(folder))
        os.utime(copy)
        _remove_unused(copies)
    return copy


def _remove_unused(copies: Path) -> None:
    for copy in copies.iterdir():
        if time.time() - copy.stat().st_mtime > KEPT:
            remove_folder(copy)
