"""The MLflow and Prefect pages of the workspace, served until Ctrl-C.

Runs need neither: they write to the databases that these servers read, so the pages may come and go while a run goes on.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

from configs.errors import UserError
from tasks.servers.pages import Listening, page_servers, require_protected_pages
from tasks.servers.running import record, refuse_second, stop_leftovers, stopped_at_the_end
from tasks.servers.server_process import ServerProcess
from tasks.tracking.reconciliation import reconcile
from tasks.workspace.databases import prepare_databases
from tasks.workspace.folders import Workspace

START_LIMIT = 180.0  # seconds
LOOK_INTERVAL = 0.2  # seconds
SHOWS = {"MLflow": "losses, samples, registered models", "Prefect": "the stages of every run, logs"}


@dataclass
class StopRequest:
    """Becomes true when the user (Ctrl-C), the system (SIGTERM) or a closed terminal (SIGHUP) asks for the end."""

    received: bool = False

    def handle(self, _number: int, _frame: FrameType | None) -> None:
        """Only take note: an exception here could lose a server that is just being started."""
        self.received = True


def serve_dashboard(listening: Listening) -> None:
    """Serve both pages until Ctrl-C, SIGTERM or SIGHUP, then stop both and everything that they started.

    A taken port is replaced by the next free one. A server that the environment names (MLFLOW_TRACKING_URI,
    PREFECT_API_URL) is shown and not started. Raises UserError if others would get in without a password, the workspace
    cannot be written, its dashboard runs already, no port is free, or a server ends by itself.
    """
    require_protected_pages(listening)
    workspace = Workspace.current().create()
    refuse_second(workspace)
    _say(f"Starting the dashboard of {workspace.root} ...")
    stop_leftovers(workspace)
    prepare_databases(workspace)
    reconcile(workspace)
    specs = page_servers(workspace, listening)
    if not specs:
        return
    with stop_request() as stop, stopped_at_the_end(workspace) as servers:
        for spec in specs:
            servers.append(ServerProcess(spec))
        record(workspace, servers)
        announce(servers, stop)
        if not stop.received:
            _say("Press Ctrl-C to stop.")
        while not stop.received:
            _require_alive(servers)
            time.sleep(LOOK_INTERVAL)
        _say("\nStopping ...")
    _say("The dashboard is stopped.")


def announce(servers: list[ServerProcess], stop: StopRequest) -> None:
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
def stop_request() -> Iterator[StopRequest]:
    """Inside, signals are taken note of and do nothing else."""
    stop = StopRequest()
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = [signal.signal(number, stop.handle) for number in numbers]
    try:
        yield stop
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


def _say(text: str) -> None:
    print(text, flush=True)
