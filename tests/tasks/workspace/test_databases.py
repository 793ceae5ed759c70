"""The workspace's databases: whole or not there, whoever else prepares them at the same time, and whoever is killed."""

import os
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest

from configs.errors import UserError
from tasks.workspace.databases import prepare_databases
from tasks.workspace.folders import Workspace

PREPARE = """
from tasks.workspace.databases import prepare_databases
from tasks.workspace.folders import Workspace
prepare_databases(Workspace.current())
"""


def prepare(workspace: Workspace) -> subprocess.Popen[str]:
    """In a process of its own; MLflow's database only, because it is the quicker one."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("PREFECT_", "MLFLOW_"))}
    environment |= {"GPT2FLOW_HOME": str(workspace.root), "PREFECT_API_URL": "http://127.0.0.1:9/api"}
    return subprocess.Popen([sys.executable, "-c", PREPARE], env=environment, text=True, stdout=subprocess.PIPE)


def tables(database: Path) -> set[str]:
    with closing(sqlite3.connect(database)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        return {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}


@pytest.mark.slow
def test_two_at_once_after_one_was_killed_leave_one_whole_database(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path).create()
    database = tmp_path / "mlflow" / "mlflow.db"
    unfinished = database.with_name("mlflow.db.tmp")

    killed = prepare(workspace)
    while not (unfinished.exists() and unfinished.stat().st_size):
        assert killed.poll() is None
        time.sleep(0.01)
    killed.kill()
    killed.wait()
    assert not database.exists()

    both = [prepare(workspace), prepare(workspace)]
    said = [process.communicate(timeout=60)[0] for process in both]

    assert [process.returncode for process in both] == [0, 0]
    assert sorted(said) == ["", f"Preparing the databases of {tmp_path} (once, some 15 seconds) ...\n"]
    assert {"experiments", "runs", "metrics", "registered_models", "alembic_version"} <= tables(database)
    assert not any("_tmp_" in name for name in tables(database))
    assert not unfinished.exists()


def test_a_migration_that_fails_names_its_log_and_publishes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    workspace = Workspace(tmp_path).create()
    (tmp_path / "mlflow" / "mlflow.db").write_text("this is no database")
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", workspace.mlflow_database)
    with pytest.raises(UserError, match=r"mlflow\.db could not be prepared: .*databases\.log says why"):
        prepare_databases(workspace)
    assert "file is not a database" in (tmp_path / "databases.log").read_text()
    assert not (tmp_path / "databases.json").exists()


def test_databases_that_the_environment_names_elsewhere_are_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    workspace = Workspace(tmp_path).create()
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    prepare_databases(workspace)
    assert not list(tmp_path.rglob("*.db"))
