"""A workspace that was copied or moved: MLflow's tables name its files by their old path, so they are rewritten."""

from __future__ import annotations

import json
import os
import re
import sqlite3
from contextlib import closing
from pathlib import Path

from gpt2core.machine.durable import write_json
from tasks.workspace.folders import Workspace

PLACES = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
)
"""Columns in which MLflow keeps absolute file URIs."""
ARTIFACTS = re.compile(r"(file://.*?/mlflow/artifacts)/([^/]+)")
ROOT = "root"
"""Where the databases' record notes the path that the tables were written for."""


def follow_move(workspace: Workspace) -> None:
    """Point MLflow's own database at the artifacts that lie in this workspace; returns at once where it has not moved.

    The old workspace, if it is still there, stays as it is. A database that the environment names elsewhere is left alone.
    """
    database, record = workspace.root / "mlflow" / "mlflow.db", workspace.root / "databases.json"
    if os.environ.get("MLFLOW_TRACKING_URI") != workspace.mlflow_database or not database.is_file():
        return
    known = json.loads(record.read_text(encoding="utf-8")) if record.is_file() else {}
    if known.get(ROOT) == str(workspace.root):
        return
    _rewrite(database, workspace.mlflow_artifacts)
    write_json(record, {**known, ROOT: str(workspace.root)})


def _rewrite(database: Path, artifacts: Path) -> None:
    """In one transaction. Only what is here is pointed here: artifacts elsewhere were put there on purpose."""
    here = artifacts.as_uri()
    with closing(sqlite3.connect(database, timeout=60)) as connection, connection:
        found = [row[0] for table, column in PLACES for row in connection.execute(f"SELECT DISTINCT {column} FROM {table}")]
        matches = (ARTIFACTS.match(uri) for uri in found if uri)
        old = {match[1] for match in matches if match and (artifacts / match[2]).exists()} - {here}
        for table, column in PLACES:
            for prefix in old:
                connection.execute(
                    f"UPDATE {table} SET {column} = ? || substr({column}, ?) WHERE {column} = ? OR {column} LIKE ?",
                    (here, len(prefix) + 1, prefix, f"{prefix}/%"),
                )
