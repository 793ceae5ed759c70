"""Files at an artifact location, wherever MLflow keeps them: a folder, behind a server, a bucket."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mlflow.exceptions import MlflowException
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
from mlflow.utils.file_utils import local_file_uri_to_path


def artifact_bytes(location: str) -> int:
    """Size of all files there; 0 where there are none."""
    if location.startswith(("file:", "/")):
        folder = Path(local_file_uri_to_path(location))  # type: ignore[no-untyped-call]
        return sum(Path(parent, name).stat().st_size for parent, _, names in os.walk(folder) for name in names)
    with _one_kind_of_error(location):
        return _listed(location, None)


def remove_artifacts(location: str) -> None:
    """Delete all files there."""
    with _one_kind_of_error(location):
        get_artifact_repository(location).delete_artifacts()  # type: ignore[no-untyped-call]


def _listed(location: str, path: str | None) -> int:
    found = get_artifact_repository(location).list_artifacts(path)
    return sum(_listed(location, file.path) if file.is_dir else int(file.file_size or 0) for file in found)


@contextmanager
def _one_kind_of_error(location: str) -> Iterator[None]:
    """Each kind of storage has errors of its own."""
    try:
        yield
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise MlflowException(f"the files at {location} cannot be listed or removed: {reason}") from error
