"""The two databases, the workspace's own or a server's, created or migrated by one process at a time.

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

from configs.addresses import shown
from configs.errors import UserError
from gpt2core.machine.durable import write_json
from gpt2core.machine.lock import locked
from tasks.workspace.elsewhere import PREFECT_DATABASE_VARIABLES, mlflow_database, prefect_database, require_answer
from tasks.workspace.folders import Workspace
from tasks.workspace.relocation import follow_move

PREFECT_VARIABLES = ("PREFECT_API_URL", *PREFECT_DATABASE_VARIABLES)
UPGRADE_MLFLOW = "import os; from mlflow.db import upgrade; upgrade.callback(os.environ['MLFLOW_BACKEND_STORE_URI'])"
"""As `mlflow db upgrade`, which takes the address, password and all, from where lists of processes show it."""


@dataclass(frozen=True)
class Database:
    """The tables of one library: in a sqlite file, or in a server's database."""

    library: str
    path: Path | None = None
    """The workspace's own file."""
    address: str = ""
    """Of a server's database; holds its password."""

    @property
    def name(self) -> str:
        """What it is called in sentences."""
        return str(self.path) if self.path else shown(self.address)

    @property
    def key(self) -> str:
        """Under which the record has the version that prepared it."""
        return self.library if self.path else f"{self.library} {shown(self.address)}"

    @property
    def unfinished(self) -> Path | None:
        """Where a new file is built; it gets its name when it is complete."""
        return self.path.with_name(self.path.name + ".tmp") if self.path else None

    def migration(self) -> tuple[list[str], dict[str, str]]:
        """Arguments of Python and the environment that create or migrate the tables."""
        file = self.path if self.path is None or self.path.exists() else self.unfinished
        if self.library == "mlflow":
            return ["-c", UPGRADE_MLFLOW], {"MLFLOW_BACKEND_STORE_URI": f"sqlite:///{file}" if file else self.address}
        url = f"sqlite+aiosqlite:///{file}" if file else self.address
        return ["-m", "prefect", "server", "database", "upgrade", "-y"], {PREFECT_DATABASE_VARIABLES[0]: url}


def prepare_databases(workspace: Workspace) -> None:
    """Create the databases or migrate them to the installed versions; returns at once where that is done.

    Waits while another process does it. Those of servers that the environment names are left to those servers.
    Raises UserError if a migration fails, or nothing answers where a database should be.
    """
    with locked(workspace.root / "databases.lock") as lock:
        databases = _databases(workspace)
        stale = [database for database in databases if not _is_current(workspace, database)]
        _require_answers([each for each in databases if each in stale or each.library == "prefect"])
        if not stale:
            follow_move(workspace)
            return
        print(f"Preparing the databases of {workspace.root} (once, some 15 seconds) ...", flush=True)
        _migrate(workspace, stale, lock)
        write_json(
            _record_file(workspace),
            _recorded(workspace) | {each.key: version(each.library) for each in stale},
        )
        follow_move(workspace)


def databases_elsewhere(workspace: Workspace) -> list[str]:
    """Libraries whose database the environment names elsewhere: what they know is not in the workspace."""
    here = {database.library for database in _databases(workspace) if database.path}
    return [library for library in ("prefect", "mlflow") if library not in here]


def _databases(workspace: Workspace) -> list[Database]:
    """Those that are prepared from here."""
    found = []
    if not any(os.environ.get(name) for name in PREFECT_VARIABLES):
        found.append(Database("prefect", path=workspace.prefect_home / "prefect.db"))
    elif (address := prefect_database()) and address.startswith("postgresql"):
        found.append(Database("prefect", address=address))
    if os.environ["MLFLOW_TRACKING_URI"] == workspace.mlflow_database:
        found.append(Database("mlflow", path=workspace.root / "mlflow" / "mlflow.db"))
    elif address := mlflow_database():
        found.append(Database("mlflow", address=address))
    return found


def _require_answers(databases: list[Database]) -> None:
    """Of databases that nothing goes without: training waits for MLflow's only to prepare it."""
    for database in databases:
        try:
            require_answer(database.address)
        except OSError as error:
            problem = f"The database {database.name} cannot be used: {error}"
            raise UserError(f"{problem}. Start it, or put its address right.") from None


def _migrate(workspace: Workspace, databases: list[Database], lock: int) -> None:
    """Migrate side by side. The children hold the lock as well, so it is kept even if this process is killed."""
    log = workspace.root / "databases.log"
    children = []
    try:
        with log.open("w") as output:
            for database in databases:
                if database.unfinished:
                    database.unfinished.unlink(missing_ok=True)
                arguments, environment = database.migration()
                children.append(
                    subprocess.Popen(
                        [sys.executable, *arguments],
                        env={**os.environ, **environment},
                        stdin=subprocess.DEVNULL,
                        stdout=output,
                        stderr=subprocess.STDOUT,
                        pass_fds=[lock],
                    )
                )
        for database, child in zip(databases, children, strict=True):
            if child.wait() != 0:
                raise UserError(f"The database {database.name} could not be prepared: {log} says why.")
            _publish(database)
    finally:
        for child in children:
            child.kill()
            child.wait()


def _publish(database: Database) -> None:
    """Give a database that was built under its temporary name its own."""
    if database.path is None or database.unfinished is None or not database.unfinished.exists():
        return
    with closing(sqlite3.connect(database.unfinished)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    database.unfinished.rename(database.path)


def _is_current(workspace: Workspace, database: Database) -> bool:
    there = database.path is None or database.path.exists()
    return there and _recorded(workspace).get(database.key) == version(database.library)


def _recorded(workspace: Workspace) -> dict[str, str]:
    """Library versions that have prepared the databases."""
    try:
        found: dict[str, str] = json.loads(_record_file(workspace).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    return found


def _record_file(workspace: Workspace) -> Path:
    return workspace.root / "databases.json"
