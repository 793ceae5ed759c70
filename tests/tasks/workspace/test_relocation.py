"""A workspace that was copied: its registry works at the new place, and the old one is left as it is."""

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from mlflow import MlflowClient

from tasks.runs.models import resolve_model
from tasks.workspace.databases import prepare_databases
from tasks.workspace.folders import Workspace
from tasks.workspace.relocation import PLACES, follow_move


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """With a registered version, as small as a database lets it be, and one whose files lie elsewhere on purpose."""
    made = enter(tmp_path / "old place", monkeypatch)
    monkeypatch.setenv("PREFECT_API_URL", "http://elsewhere")  # so that MLflow's database alone is made
    prepare_databases(made.create())
    client, model = MlflowClient(), made.mlflow_artifacts / "exp" / "m"
    (model / "artifacts" / "model").mkdir(parents=True)
    (model / "MLmodel").write_text("flavors: {}\n")
    client.create_experiment("exp", artifact_location=(made.mlflow_artifacts / "exp").as_uri())
    client.create_experiment("mine", artifact_location="file:///data/mlflow/artifacts/mine")
    client.create_registered_model("moved")
    client.set_registered_model_alias("moved", "champion", client.create_model_version("moved", model.as_uri()).version)
    return made


def enter(root: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    workspace = Workspace(root)
    monkeypatch.setenv("GPT2FLOW_HOME", str(root))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", workspace.mlflow_database)
    return workspace


def paths_in(workspace: Workspace) -> set[str]:
    with closing(sqlite3.connect(workspace.root / "mlflow" / "mlflow.db")) as database:
        return {row[0] for table, column in PLACES for row in database.execute(f"SELECT {column} FROM {table}") if row[0]}


def test_a_copied_workspace_finds_its_models_at_the_new_place(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    before = paths_in(workspace)
    copy = enter(workspace.root.with_name("new"), monkeypatch)
    shutil.copytree(workspace.root, copy.root)
    assert resolve_model("models:/moved@champion") == copy.mlflow_artifacts / "exp" / "m" / "artifacts" / "model"
    assert not any("old%20place" in uri for uri in paths_in(copy))
    assert "file:///data/mlflow/artifacts/mine" in paths_in(copy)
    assert paths_in(workspace) == before


def test_once_is_enough(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    moved = enter(workspace.root.with_name("elsewhere"), monkeypatch)
    workspace.root.rename(moved.root)
    follow_move(moved)
    stamp = (moved.root / "databases.json").stat().st_mtime_ns
    follow_move(moved)
    assert (moved.root / "databases.json").stat().st_mtime_ns == stamp
