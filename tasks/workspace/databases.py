"""The workspace's two databases, created or migrated by one process at a time.

Prefect and MLflow do this at first contact, and nothing keeps two processes apart there: a run and a dashboard started
together in a new workspace would break each other's tables, and a kill would leave half of them.
"""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from configs.errors import UserError
from gpt2core.machine.durable import write_json
from gpt2core.machine.lock import locked
from tasks.workspace.folders import Workspace
from tasks.workspace.relocation import follow_move

PREFECT_URL_VARIABLES = ("PREFECT_API_URL", "PREFECT_API_DATABASE_CONNECTION_URL", "PREFECT_SERVER_DATABASE_CONNECTION_URL")


@dataclass(frozen=True)
class Database:
    """One sqlite file and the library whose tables it holds."""

    library: str
    path: Path

    @property
    def unfinished(self) -> Path:
        """Where a new database is built; it gets its name when it is complete."""
        return self.path.with_name(self.path.name + ".tmp")

    def migration(self, file: Path) -> tuple[list[str], dict[str, str]]:
        """Command line and environment that create or migrate the tables in `file`."""
        if self.library == "mlflow":
            return ["mlflow", "db", "upgrade", f"sqlite:///{file}"], {}
        url = f"sqlite+aiosqlite:///{file}"
        return ["prefect", "server", "database", "upgrade", "-y"], {"PREFECT_SERVER_DATABASE_CONNECTION_URL": url}


def prepare_databases(workspace: Workspace) -> None:
    """Create the databases or migrate them to the installed versions; returns at once where that is done.

    Waits while another process does it. Databases that the environment names elsewhere are left alone.
    Raises UserError if a migration fails.
    """
    with locked(workspace.root / "databases.lock") as lock:
        stale = [database for database in _databases(workspace) if not _is_current(workspace, database)]
        if not stale:
            follow_move(workspace)
            return
        print(f"Preparing the databases of {workspace.root} (once, some 15 seconds) ...", flush=True)
        _migrate(workspace, stale, lock)
        write_json(
            _record_file(workspace),
            _recorded(workspace) | {stale_one.library: version(stale_one.library) for stale_one in stale},
        )
        follow_move(workspace)


def databases_elsewhere(workspace: Workspace) -> list[str]:
    """Libraries whose database the environment names elsewhere: what they know is not in the workspace."""
    here = {database.library for database in _databases(workspace)}
    return [library for library in ("prefect", "mlflow") if library not in here]


def _databases(workspace: Workspace) -> list[Database]:
    found = []
    if not any(os.environ.get(name) for name in PREFECT_URL_VARIABLES):
        found.append(Database("prefect", workspace.prefect_home / "prefect.db"))
    if os.environ["MLFLOW_TRACKING_URI"] == workspace.mlflow_database:
        found.append(Database("mlflow", workspace.root / "mlflow" / "mlflow.db"))
    return found


def _migrate(workspace: Workspace, databases: list[Database], lock: int) -> None:
    """Migrate side by side. The children hold the lock as well, so it is kept even if this process is killed."""
    log = workspace.root / "databases.log"
    children = []
    try:
        with log.open("w") as output:
            for database in databases:
                database.unfinished.unlink(missing_ok=True)
                command, environment = database.migration(database.path if database.path.exists() else database.unfinished)
                children.append(
                    subprocess.Popen(
                        [sys.executable, "-m", *command],
                        env={**os.environ, **environment},
                        stdin=subprocess.DEVNULL,
                        stdout=output,
                        stderr=subprocess.STDOUT,
                        pass_fds=[lock],
                    )
                )
        for database, child in zip(databases, children, strict=True):
            if child.wait() != 0:
                raise UserError(f"The database {database.path} could not be prepared: {log} says why.")
            _publish(database)
    finally:
        for child in children:
            child.kill()
            child.wait()


def _publish(database: Database) -> None:
    """Give a database that was built under its temporary name its own."""
    if not database.unfinished.exists():
        return
    with closing(sqlite3.connect(database.unfinished)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    database.unfinished.rename(database.path)


def _is_current(workspace: Workspace, database: Database) -> bool:
    return database.path.exists() and _recorded(workspace).get(database.library) == version(database.library)


def _recorded(workspace: Workspace) -> dict[str, str]:
    """Library versions that have prepared the databases."""
    try:
        found: dict[str, str] = json.loads(_record_file(workspace).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    return found


def _record_file(workspace: Workspace) -> Path:
    return workspace.root / "databases.json"
