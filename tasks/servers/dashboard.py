"""The MLflow and Prefect pages of the workspace, served on 127.0.0.1 until Ctrl-C.

Runs need neither: they write to the databases that these servers read, so the pages may come and go while a run goes on.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType

from configs.errors import UserError
from gpt2core.machine.durable import write_json
from tasks.servers.server_process import HOST, Identity, ServerProcess, ServerSpec, free_port, stop_all, stop_leftover
from tasks.tracking.reconciliation import reconcile
from tasks.workspace.databases import prepare_databases
from tasks.workspace.folders import Workspace

START_LIMIT = 180.0  # seconds
LOOK_INTERVAL = 0.2  # seconds
SHOWS = {"MLflow": "losses, samples, registered models", "Prefect": "the stages of every run, logs"}


@dataclass(frozen=True)
class RunningDashboard:
    """Who serves the dashboard of a workspace, and where."""

    process: Identity
    servers: list[Identity]
    addresses: dict[str, str]


@dataclass
class StopRequest:
    """Becomes true when the user (Ctrl-C), the system (SIGTERM) or a closed terminal (SIGHUP) asks for the end."""

    received: bool = False

    def handle(self, _number: int, _frame: FrameType | None) -> None:
        """Only take note: an exception here could lose a server that is just being started."""
        self.received = True


def serve_dashboard(mlflow_port: int = 5000, prefect_port: int = 4200) -> None:
    """Serve both pages until Ctrl-C, SIGTERM or SIGHUP, then stop both and everything that they started.

    A taken port is replaced by the next free one. A server that the environment names (MLFLOW_TRACKING_URI,
    PREFECT_API_URL) is shown and not started. Raises UserError if the workspace cannot be written, its dashboard runs
    already, no port is free, or a server ends by itself.
    """
    workspace = Workspace.current().create()
    _refuse_second(workspace)
    _say(f"Starting the dashboard of {workspace.root} ...")
    _stop_leftovers(workspace)
    prepare_databases(workspace)
    reconcile(workspace)
    specs = _servers(workspace, mlflow_port, prefect_port)
    if not specs:
        return
    with _stop_request() as stop, _recorded(workspace) as servers:
        for spec in specs:
            servers.append(ServerProcess(spec))
        _record(workspace, servers)
        _announce(servers, stop)
        while not stop.received:
            _require_alive(servers)
            time.sleep(LOOK_INTERVAL)
        _say("\nStopping ...")
    _say("The dashboard is stopped.")


def running_dashboard(workspace: Workspace) -> RunningDashboard | None:
    """The dashboard that is served for this workspace now, if there is one."""
    recorded = _read_record(workspace)
    return recorded if recorded and recorded.process.is_alive() else None


def _servers(workspace: Workspace, mlflow_port: int, prefect_port: int) -> list[ServerSpec]:
    """The servers to start; those that the environment names are only shown."""
    specs = []
    tracking = os.environ["MLFLOW_TRACKING_URI"]
    if tracking.startswith(("http:", "https:", "databricks")):
        _say(f"  MLflow   {tracking}   (MLFLOW_TRACKING_URI: runs report there, so no server is started here)")
    else:
        specs.append(_mlflow(workspace, tracking, _choose_port("MLflow", mlflow_port, avoid=prefect_port)))
    if api := os.environ.get("PREFECT_API_URL"):
        _say(f"  Prefect  {api.removesuffix('/api')}   (PREFECT_API_URL: runs report there, so no server is started here)")
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
        _say(f"  Port {wanted} is taken, so {name} gets {port}.")
    return port


def _announce(servers: list[ServerProcess], stop: StopRequest) -> None:
    """Print each address as soon as its server answers."""
    deadline = time.monotonic() + START_LIMIT
    waiting = list(servers)
    while waiting and not stop.received:
        _require_alive(servers)
        for server in [server for server in waiting if server.answers()]:
            _say(f"  {server.spec.name:<8} {server.spec.page}   {SHOWS[server.spec.name]}")
            waiting.remove(server)
        if time.monotonic() > deadline:
            raise _failure(waiting[0], f"did not answer within {START_LIMIT:.0f} seconds")
        time.sleep(LOOK_INTERVAL)
    if not stop.received:
        _say("Press Ctrl-C to stop.")


def _require_alive(servers: list[ServerProcess]) -> None:
    for server in servers:
        if (code := server.exit_code()) is not None:
            raise _failure(server, f"ended by itself with exit code {code}")


def _failure(server: ServerProcess, what: str) -> UserError:
    _say(f"\nThe end of {server.spec.log}:\n{server.last_words()}\n")
    return UserError(
        f"{server.spec.name}'s server {what}, so the dashboard was stopped: see {server.spec.log}, then start it again."
    )


@contextmanager
def _stop_request() -> Iterator[StopRequest]:
    stop = StopRequest()
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = [signal.signal(number, stop.handle) for number in numbers]
    try:
        yield stop
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


@contextmanager
def _recorded(workspace: Workspace) -> Iterator[list[ServerProcess]]:
    """A list whose servers are stopped at the end, whatever ends it, and the record of them removed."""
    servers: list[ServerProcess] = []
    try:
        yield servers
    finally:
        stop_all(servers)
        _record_file(workspace).unlink(missing_ok=True)


def _record(workspace: Workspace, servers: list[ServerProcess]) -> None:
    addresses = {server.spec.name: server.spec.page for server in servers}
    record = RunningDashboard(Identity.of(os.getpid()), [server.identity for server in servers], addresses)
    write_json(_record_file(workspace), asdict(record))


def _refuse_second(workspace: Workspace) -> None:
    if running := running_dashboard(workspace):
        where = ", ".join(f"{name} {address}" for name, address in running.addresses.items())
        raise UserError(
            f"The dashboard of {workspace.root} runs already: {where}; stop process {running.process.pid} to start another."
        )


def _stop_leftovers(workspace: Workspace) -> None:
    """Stop the servers of a dashboard that was killed before it could do so itself."""
    recorded = _read_record(workspace)
    for server in recorded.servers if recorded else []:
        stop_leftover(server)


def _read_record(workspace: Workspace) -> RunningDashboard | None:
    try:
        found = json.loads(_record_file(workspace).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    return RunningDashboard(
        process=Identity(**found["process"]),
        servers=[Identity(**server) for server in found["servers"]],
        addresses=found["addresses"],
    )


def _record_file(workspace: Workspace) -> Path:
    return workspace.root / "dashboard.json"


def _say(text: str) -> None:
    print(text, flush=True)
