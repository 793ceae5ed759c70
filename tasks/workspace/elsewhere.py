"""What the environment names outside of the workspace: databases, servers, the place of artifacts; and whether it can be so."""

from __future__ import annotations

import os
import socket
from importlib.util import find_spec
from urllib.parse import quote, urlsplit

from configs.addresses import holds_secret, shown
from configs.errors import UserError
from tasks.workspace.folders import Workspace
from tasks.workspace.team_file import read_team_file

PREFECT_DATABASE_VARIABLES = ("PREFECT_SERVER_DATABASE_CONNECTION_URL", "PREFECT_API_DATABASE_CONNECTION_URL")
PATIENCE = 5.0
"""Seconds that a database has to answer."""
POSTGRESQL = 5432
DRIVERS = {"postgresql": "psycopg2", "postgresql+psycopg2": "psycopg2", "postgresql+psycopg": "psycopg"}
"""What MLflow reaches a database by, for each way to begin its address."""
LIBRARIES = {"s3": "boto3"}
"""What MLflow reaches artifacts by."""
INSTALL = "pip install 'gpt2flow[team]'"


def prefect_database() -> str | None:
    """Address of Prefect's database where it is not the workspace's; None also where a server has it."""
    if os.environ.get("PREFECT_API_URL"):
        return None
    return next((os.environ[name] for name in PREFECT_DATABASE_VARIABLES if os.environ.get(name)), None)


def mlflow_database() -> str | None:
    """Address of MLflow's database where it is a server's such as PostgreSQL's; None also where MLflow's server has it."""
    address = os.environ.get("MLFLOW_TRACKING_URI", "")
    return address if address.startswith("postgresql") else None


def artifact_root(workspace: Workspace) -> str:
    """URI below which MLflow's files lie: the workspace's folder, or what MLFLOW_DEFAULT_ARTIFACT_ROOT says, such as s3://..."""
    return os.environ.get("MLFLOW_DEFAULT_ARTIFACT_ROOT", "").rstrip("/") or workspace.mlflow_artifacts.as_uri()


def artifact_location(workspace: Workspace, experiment: str) -> str:
    """URI of the files of one experiment."""
    return f"{artifact_root(workspace)}/{quote(experiment, safe='')}"


def require_sound_settings(workspace: Workspace) -> None:
    """Raise UserError where variables contradict each other, hold a secret at the wrong place, or need what is not installed.

    Also for what is wrong with the workspace's team.env.
    """
    read_team_file(workspace.root)
    _require_no_password("MLFLOW_TRACKING_URI", "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD")
    _require_no_password("PREFECT_API_URL", "PREFECT_API_AUTH_STRING, as USER:PASSWORD")
    prefect, mlflow = prefect_database(), mlflow_database()
    if prefect and prefect.startswith("postgresql") and not prefect.startswith("postgresql+asyncpg://"):
        raise UserError(f"{PREFECT_DATABASE_VARIABLES[0]} must begin with postgresql+asyncpg://, by which Prefect reaches it.")
    if mlflow:
        driver = DRIVERS.get(urlsplit(mlflow).scheme)
        if driver is None:
            raise UserError("MLFLOW_TRACKING_URI must begin with postgresql://, by which MLflow reaches a database.")
        require_installed(driver, "MLFLOW_TRACKING_URI")
    if prefect and mlflow and _place(prefect) == _place(mlflow):
        raise UserError(
            f"Prefect and MLflow have the same database, {shown(mlflow)}, and would break each other's tables: "
            "make one for each."
        )
    if library := LIBRARIES.get(urlsplit(artifact_root(workspace)).scheme):
        require_installed(library, "MLFLOW_DEFAULT_ARTIFACT_ROOT")


def require_answer(database: str) -> None:
    """Raises OSError, with a sentence that says where, if no server listens at the database's address."""
    host, port, _ = _place(database)
    if not host:  # a socket of this machine
        return
    try:
        socket.create_connection((host, port), timeout=PATIENCE).close()
    except OSError as error:
        raise OSError(f"nothing answers at {host}:{port} ({error.strerror or error})") from None


def _require_no_password(variable: str, instead: str) -> None:
    address = os.environ.get(variable, "")
    if address.startswith("http") and holds_secret(address):
        raise UserError(f"{variable} holds a password, which would be shown with it: set {instead} instead.")


def require_installed(library: str, variable: str) -> None:
    """Raise UserError where a library is missing that the variable needs."""
    if find_spec(library) is None:
        raise UserError(f"{variable} needs {library}, which is not installed: {INSTALL}")


def _place(database: str) -> tuple[str, int, str]:
    try:
        parts = urlsplit(database)
        return parts.hostname or "", parts.port or POSTGRESQL, parts.path
    except ValueError:
        raise UserError(
            f"{shown(database)} is no address of a database: write it as postgresql://USER:PASSWORD@HOST:5432/NAME, with "
            "%40 for an @ in the password."
        ) from None
