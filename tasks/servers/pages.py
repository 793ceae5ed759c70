"""The servers of MLflow's and Prefect's pages: how they are started, where they listen and whom they let in."""

from __future__ import annotations

import os
import secrets
import sys
from dataclasses import dataclass

from configs.errors import UserError
from tasks.servers.protection import from_here, is_loopback, require_protection
from tasks.servers.server_process import HOST, ServerSpec, free_port, web_address
from tasks.workspace.elsewhere import artifact_root, require_installed
from tasks.workspace.folders import Workspace

MLFLOW_PASSWORD, MLFLOW_USERS = "MLFLOW_AUTH_ADMIN_PASSWORD", "MLFLOW_AUTH_CONFIG_PATH"
"""Variables of MLflow's own; either lets nobody in who has no name and password there."""
SHORTEST_PASSWORD = 12
"""MLflow's own limit."""
PREFECT_PASSWORD = "PREFECT_SERVER_API_AUTH_STRING"
USERS = """[mlflow]
default_permission = READ
database_uri = sqlite:///{database}
admin_username = admin
authorization_function = mlflow.server.auth:authenticate_request_basic_auth
"""


@dataclass(frozen=True)
class Listening:
    """Where both servers listen, and whether others may reach them without a password."""

    mlflow_port: int = 5000
    prefect_port: int = 4200
    host: str = HOST
    unprotected: bool = False

    def arguments(self) -> list[str]:
        """As options of a command."""
        ports = ["--mlflow_port", str(self.mlflow_port), "--prefect_port", str(self.prefect_port)]
        return [*ports, "--host", self.host, *(["--unprotected"] if self.unprotected else [])]


def require_protected_pages(listening: Listening) -> None:
    """Raise UserError where others would reach a server that is started here, and get in without a password."""
    for name, variable, what, remedy in (
        ("MLflow", MLFLOW_PASSWORD, "change runs and models in MLflow", "the password of MLflow's user admin"),
        ("Prefect", PREFECT_PASSWORD, "start programs through Prefect", "USER:PASSWORD"),
    ):
        protected = bool(os.environ.get(variable)) or (name == "MLflow" and bool(os.environ.get(MLFLOW_USERS)))
        if not _elsewhere(name):
            require_protection(listening.host, protected or listening.unprotected, what, f"set {variable} to {remedy}")
    if 0 < len(os.environ.get(MLFLOW_PASSWORD, "")) < SHORTEST_PASSWORD:
        raise UserError(f"{MLFLOW_PASSWORD} has fewer than {SHORTEST_PASSWORD} characters, which MLflow refuses: take more.")


def page_servers(workspace: Workspace, listening: Listening) -> list[ServerSpec]:
    """The servers to start; those that the environment names are only shown. Raises UserError where no port is free."""
    specs = []
    if tracking := _elsewhere("MLflow"):
        print(f"  MLflow   {tracking}   (MLFLOW_TRACKING_URI: runs report there, so no server is started here)", flush=True)
    else:
        port = _choose_port("MLflow", listening.mlflow_port, avoid=listening.prefect_port)
        specs.append(_mlflow(workspace, listening.host, port))
    if api := _elsewhere("Prefect"):
        page = api.removesuffix("/api")
        print(f"  Prefect  {page}   (PREFECT_API_URL: runs report there, so no server is started here)", flush=True)
    else:
        port = _choose_port("Prefect", listening.prefect_port, avoid=specs[0].port if specs else None)
        specs.append(_prefect(workspace, listening.host, port))
    return specs


def _elsewhere(name: str) -> str:
    """Address of the server that the environment names; empty where one is started here."""
    if name == "Prefect":
        return os.environ.get("PREFECT_API_URL", "")
    tracking = os.environ["MLFLOW_TRACKING_URI"]
    return tracking if tracking.startswith(("http:", "https:", "databricks")) else ""


def _mlflow(workspace: Workspace, host: str, port: int) -> ServerSpec:
    """Addresses go by the environment: they may hold passwords, and lists of processes show arguments."""
    artifacts = artifact_root(workspace)
    command = [sys.executable, "-m", "mlflow", "server", "--host", host, "--port", str(port), "--workers", "1"]
    protected = bool(os.environ.get(MLFLOW_PASSWORD) or os.environ.get(MLFLOW_USERS))
    return ServerSpec(
        name="MLflow",
        command=[*command, *(["--app-name", "basic-auth"] if protected else [])],
        port=port,
        health_path="/health",
        front_page="/#/experiments?workflowType=machine_learning",  # else it opens on a view for language-model traces
        log=workspace.root / "mlflow" / "server.log",
        environment={
            "MLFLOW_BACKEND_STORE_URI": os.environ["MLFLOW_TRACKING_URI"],
            "MLFLOW_DEFAULT_ARTIFACT_ROOT": artifacts,
            "MLFLOW_ARTIFACTS_DESTINATION": artifacts,
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # three more processes that nothing here uses
            **(_users(workspace) if protected else {}),
        },
        host=from_here(host),
    )


def _users(workspace: Workspace) -> dict[str, str]:
    """Environment of an MLflow server that asks for a name and a password; its users are kept in the workspace."""
    require_installed("flask_wtf", MLFLOW_PASSWORD)
    given = os.environ.get(MLFLOW_USERS)
    file = workspace.root / "mlflow" / "basic-auth.ini"
    if not given:
        database = str(workspace.root / "mlflow" / "users.db").replace("%", "%%")
        file.write_text(USERS.format(database=database), encoding="utf-8")
    key = os.environ.get("MLFLOW_FLASK_SERVER_SECRET_KEY") or secrets.token_hex(32)
    return {MLFLOW_USERS: given or str(file), "MLFLOW_FLASK_SERVER_SECRET_KEY": key}


def _prefect(workspace: Workspace, host: str, port: int) -> ServerSpec:
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", host, "--port", str(port), "--analytics-off"]
    api = f"{web_address(from_here(host), port)}/api"
    return ServerSpec(
        name="Prefect",
        command=command,
        port=port,
        health_path="/api/health",
        log=workspace.prefect_home / "server.log",
        environment={
            "PREFECT_API_URL": api,
            # What the page asks: its own server, by whichever name the browser knows it. Else it asks port 4200.
            "PREFECT_UI_API_URL": os.environ.get("PREFECT_UI_API_URL") or (api if is_loopback(host) else "/api"),
            "PREFECT_SERVER_LOGGING_LEVEL": "WARNING",
            "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
        },
        host=from_here(host),
    )


def _choose_port(name: str, wanted: int, avoid: int | None) -> int:
    port = free_port(wanted, avoid=[] if avoid is None else [avoid])
    if port is None:
        option = f"--{name.lower()}_port"
        raise UserError(f"Port {wanted} and those that follow are taken: give {name} a free one with {option}.")
    if port != wanted:
        print(f"  Port {wanted} is taken, so {name} gets {port}.", flush=True)
    return port
