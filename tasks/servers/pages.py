"""The servers of MLflow's and Prefect's pages: how they are started and where they listen."""

from __future__ import annotations

import os
import sys

from configs.errors import UserError
from tasks.servers.server_process import HOST, ServerSpec, free_port
from tasks.workspace.folders import Workspace


def page_servers(workspace: Workspace, mlflow_port: int, prefect_port: int) -> list[ServerSpec]:
    """The servers to start; those that the environment names are only shown."""
    specs = []
    tracking = os.environ["MLFLOW_TRACKING_URI"]
    if tracking.startswith(("http:", "https:", "databricks")):
        print(f"  MLflow   {tracking}   (MLFLOW_TRACKING_URI: runs report there, so no server is started here)", flush=True)
    else:
        specs.append(_mlflow(workspace, tracking, _choose_port("MLflow", mlflow_port, avoid=prefect_port)))
    if api := os.environ.get("PREFECT_API_URL"):
        print(
            f"  Prefect  {api.removesuffix('/api')}   (PREFECT_API_URL: runs report there, so no server is started here)",
            flush=True,
        )
    else:
        taken = specs[0].port if specs else None
        specs.append(_prefect(workspace, _choose_port("Prefect", prefect_port, avoid=taken)))
    return specs


def _mlflow(workspace: Workspace, database: str, port: int) -> ServerSpec:
    artifacts = str(workspace.mlflow_artifacts)
    command = [sys.executable, "-m", "mlflow", "server", "--host", HOST, "--port", str(port), "--workers", "1"]
    storage = ["--backend-store-uri", database, "--default-artifact-root", artifacts, "--artifacts-destination", artifacts]
    return ServerSpec(
        name="MLflow",
        command=command + storage,
        port=port,
        health_path="/health",
        front_page="/#/experiments?workflowType=machine_learning",  # else it opens on a view for language-model traces
        log=workspace.root / "mlflow" / "server.log",
        environment={"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},  # three more processes that nothing here uses
    )


def _prefect(workspace: Workspace, port: int) -> ServerSpec:
    return ServerSpec(
        name="Prefect",
        command=[sys.executable, "-m", "prefect", "server", "start", "--host", HOST, "--port", str(port), "--analytics-off"],
        port=port,
        health_path="/api/health",
        log=workspace.prefect_home / "server.log",
        environment={
            "PREFECT_API_URL": f"http://{HOST}:{port}/api",  # or the page asks port 4200
            "PREFECT_SERVER_LOGGING_LEVEL": "WARNING",
            "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
        },
    )


def _choose_port(name: str, wanted: int, avoid: int | None) -> int:
    port = free_port(wanted, avoid=[] if avoid is None else [avoid])
    if port is None:
        option = f"--{name.lower()}_port"
        raise UserError(f"Port {wanted} and those that follow are taken: give {name} a free one with {option}.")
    if port != wanted:
        print(f"  Port {wanted} is taken, so {name} gets {port}.", flush=True)
    return port
