"""A Prefect server for the length of one run, where the user has none.

Prefect would start one itself, but in this process's group: the terminal's Ctrl-C would end it together with the run, and
the run's last states would be lost.
"""

from __future__ import annotations

import atexit
import os
import sys
import time
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import psutil

from configs.errors import UserError
from tasks.servers.addresses import PREFECT_PAGE
from tasks.servers.running import read_record
from tasks.servers.server_process import HOST, PORTS_TRIED, ServerProcess, ServerSpec, free_port, stop_all
from tasks.workspace.folders import Workspace

FIRST_PORT, RANGES = 8342, 1000  # up to 28,342, below the ports that the system gives to connections
PATIENCE = 120.0  # seconds
LOG = "prefect/run-server.log"


def start_prefect_server(workspace: Workspace) -> bool:
    """Start the server and point the environment at it; must come before Prefect is imported, which reads that then.

    The server comes up beside what is done next, and ends with this process, after Prefect's own last words to it. Returns
    False where none is started: the environment names another server or home, or one serves the workspace already.
    """
    elsewhere = any(os.environ.get(name) for name in ("PREFECT_API_URL", "PREFECT_PROFILE"))
    if elsewhere or os.environ["PREFECT_HOME"] != str(workspace.prefect_home):
        return False
    if served := _served(workspace):
        os.environ["PREFECT_API_URL"] = served
        return False
    if (port := free_port(_first_port())) is None:
        return False
    server = ServerProcess(_spec(workspace, port))
    atexit.register(stop_all, [server])
    os.environ["PREFECT_API_URL"] = f"http://{HOST}:{port}/api"
    os.environ.setdefault("PREFECT_UI_URL", PREFECT_PAGE)  # this one serves no pages and ends with the run
    return True


def wait_for_prefect(starting: bool) -> None:
    """Return when the server that the environment names answers; raises UserError if it does not, or not to us.

    Only one that is `starting` is waited for: the user's own should be there.
    """
    url, deadline = os.environ.get("PREFECT_API_URL"), time.monotonic() + PATIENCE
    while url and not _answers(url):
        if not starting or time.monotonic() > deadline:
            own = f"run the same command again; {LOG} in the workspace says what it did"
            raise UserError(
                f"Prefect's server {url} does not answer: {own if starting else 'start it, or unset PREFECT_API_URL'}."
            )
        time.sleep(0.1)
    if url:
        _require_admission(url)


@contextmanager
def naming_a_lost_server() -> Iterator[None]:
    """Turn what Prefect raises when its server went away into a sentence."""
    try:
        yield
    except Exception as error:
        url = os.environ.get("PREFECT_API_URL")
        if isinstance(error, UserError) or not url or _answers(url):
            raise
        raise UserError(
            f"Prefect's server {url} went away: start it again, then run the same command; it goes on from the last checkpoint."
        ) from error


def _first_port() -> int:
    """Where to look for a free port: a server takes it seconds later, and a run that starts meanwhile must find another."""
    return FIRST_PORT + PORTS_TRIED * (os.getpid() % RANGES)


def _served(workspace: Workspace) -> str:
    """URL of the server that `gpt2flow up` or `dashboard` runs for the workspace; empty where none answers."""
    recorded = read_record(workspace)
    address = recorded.address_of("Prefect") if recorded else ""
    url = f"{address}/api" if address else ""
    return url if url and _answers(url) else ""


def _answers(url: str) -> bool:
    import httpx

    try:
        return httpx.get(f"{url.rstrip('/')}/health", timeout=5).status_code == 200
    except httpx.HTTPError:
        return False


def _require_admission(url: str) -> None:
    """Its health may be asked by everybody; this asks for something that a password may protect."""
    import httpx

    if os.environ.get("PREFECT_API_KEY"):  # of Prefect's own service, which has other ways
        return
    given = os.environ.get("PREFECT_API_AUTH_STRING", "")
    headers = {"Authorization": f"Basic {b64encode(given.encode()).decode()}"} if given else {}
    answer = httpx.get(f"{url.rstrip('/')}/admin/version", headers=headers, timeout=PATIENCE)
    if answer.status_code == httpx.codes.UNAUTHORIZED:
        wrong = "a password, another one than PREFECT_API_AUTH_STRING holds" if given else "a password"
        raise UserError(f"Prefect's server {url} wants {wrong}: set PREFECT_API_AUTH_STRING to USER:PASSWORD.")


def _spec(workspace: Workspace, port: int) -> ServerSpec:
    command = [sys.executable, "-m", "uvicorn", "--factory", "prefect.server.api.server:create_app"]
    options = ["--host", HOST, "--port", str(port), "--log-level", "error", "--lifespan", "on"]
    environment = {"PREFECT_UI_ENABLED": "0", "PREFECT__SERVER_EPHEMERAL": "1", "PREFECT__SERVER_FINAL": "1"}
    return ServerSpec("Prefect", [*command, *options], port, "/api/health", workspace.root / LOG, environment)


OWNER = "GPT2FLOW_OWNER"  # environment variable, inherited by the temporary server: process id and start time of who started it


def adopt_children() -> None:
    """Mark everything that this process starts from now on as its own."""
    os.environ[OWNER] = _identity(psutil.Process())


def stop_orphans() -> int:
    """Terminate marked Prefect servers whose owner is gone; returns how many."""
    stopped = 0
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            owner = process.environ().get(OWNER)
            if owner and any("prefect.server" in part for part in process.cmdline()) and not _is_alive(owner):
                process.terminate()
                stopped += 1
    return stopped


def _identity(process: psutil.Process) -> str:
    return f"{process.pid} {process.create_time()}"


def _is_alive(owner: str) -> bool:
    try:
        return _identity(psutil.Process(int(owner.split()[0]))) == owner
    except psutil.NoSuchProcess:
        return False
