"""`gpt2flow up`: Prefect's server, MLflow's server and the worker of one workspace, kept alive until somebody stops them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from configs.errors import UserError
from tasks.servers.dashboard import START_LIMIT, StopRequest, announce, stop_request
from tasks.servers.pages import Listening, page_servers, require_protected_pages
from tasks.servers.running import (
    forget,
    read_record,
    record,
    refuse_second,
    running_dashboard,
    stop_leftovers,
    stopped_at_the_end,
)
from tasks.servers.server_process import Identity, ServerProcess, ServerSpec, stop_all, stop_leftover
from tasks.tracking.reconciliation import reconcile
from tasks.workspace.databases import prepare_databases
from tasks.workspace.folders import Workspace

LOOK_INTERVAL = 0.5  # seconds
HANG_LIMIT = 60.0  # seconds without an answer after which a server is killed and started again
FIRST_WAIT, LONGEST_WAIT = 1.0, 60.0  # seconds before a process that has died is started again; doubled each time
STEADY = 60.0  # seconds that a process must live for its earlier deaths to be forgotten
STOP_LIMIT = 660.0  # seconds; the worker waits for the checkpoint of what it has started
WORKER = "worker"


@dataclass
class Member:
    """One supervised process."""

    process: ServerProcess
    started: float = field(default_factory=time.monotonic)
    answered: float = field(default_factory=time.monotonic)
    deaths: int = 0
    again_at: float = 0.0
    """When it is started again; 0 while it runs."""


class Supervisor:
    """Starts again what dies or no longer answers, each time after a longer wait."""

    def __init__(self, workspace: Workspace, servers: list[ServerProcess]) -> None:
        self._workspace = workspace
        self._servers = servers
        self._members = [Member(server) for server in servers]

    def look(self) -> None:
        """One round over all of them."""
        for member in self._members:
            if member.again_at:
                self._start_again(member)
            else:
                self._examine(member)

    def _examine(self, member: Member) -> None:
        now, name = time.monotonic(), member.process.spec.name
        if (code := member.process.exit_code()) is not None:
            self._died(member, f"ended with exit code {code}")
        elif member.process.answers():
            member.answered = now
            if now - member.started > STEADY:
                member.deaths = 0
        elif now - member.answered > HANG_LIMIT:
            _say(f"  {name} has not answered for {HANG_LIMIT:.0f} seconds and is killed.")
            stop_leftover(member.process.identity)
            self._died(member, "was killed")

    def _died(self, member: Member, how: str) -> None:
        wait = min(FIRST_WAIT * 2**member.deaths, LONGEST_WAIT)
        member.process.wait_until_gone()  # what it has started must not hold its port
        member.deaths, member.again_at = member.deaths + 1, time.monotonic() + wait
        log = member.process.spec.log.with_suffix(".previous.log")
        _say(f"  {member.process.spec.name} {how} and is started again in {wait:.0f} s; {log} will hold its last words.")

    def _start_again(self, member: Member) -> None:
        if time.monotonic() < member.again_at:
            return
        place = self._servers.index(member.process)
        member.process = self._servers[place] = ServerProcess(member.process.spec)
        member.started = member.answered = time.monotonic()
        member.again_at = 0.0
        record(self._workspace, self._servers)


def bring_up(listening: Listening, at_once: int) -> None:
    """Serve both pages and take what is due until a signal, then stop everything, the worker first.

    Raises UserError if others would get in without a password, the workspace cannot be written, its servers run already,
    or no port is free.
    """
    require_protected_pages(listening)
    workspace = Workspace.current().create()
    refuse_second(workspace)
    _say(f"Starting the servers of {workspace.root} ...")
    _leave_flow_runs_alone(workspace)
    stop_leftovers(workspace)
    prepare_databases(workspace)
    reconcile(workspace)
    with stop_request() as stop, stopped_at_the_end(workspace) as servers:
        for spec in page_servers(workspace, listening):
            servers.append(ServerProcess(spec))
        record(workspace, servers)
        announce(servers, stop)
        servers.append(ServerProcess(_worker(workspace, servers, at_once)))
        record(workspace, servers)
        _say("  worker   takes nights and evaluations\nPress Ctrl-C to stop everything.")
        _supervise(Supervisor(workspace, servers), stop)
        _say("\nStopping; what trains saves a checkpoint first ...")
        stop_all([servers[-1]])  # while Prefect's server can still be told how its flow runs ended
    _say("Everything is stopped.")


def bring_up_detached(listening: Listening, at_once: int) -> dict[str, str]:
    """As `bring_up` in a process of its own; returns the addresses once it is up; raises UserError if it fails."""
    require_protected_pages(listening)
    workspace = Workspace.current().create()
    refuse_second(workspace)
    log = workspace.root / "up.log"
    with log.open("wb") as output:
        command = [sys.executable, "-m", "flows.cli", "up", "--at_once", str(at_once), *listening.arguments()]
        child = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
    deadline = time.monotonic() + START_LIMIT + 60
    while time.monotonic() < deadline and child.poll() is None:
        running = running_dashboard(workspace)
        if running and running.process.pid == child.pid and WORKER in running.addresses:
            return running.addresses
        time.sleep(LOOK_INTERVAL)
    child.terminate()
    raise UserError(f"The servers did not come up: {log} says why.\n{_last_line(log)}")


def bring_down() -> None:
    """Stop what `bring_up` has started, here or in another terminal; raises UserError where nothing runs."""
    workspace = Workspace.current()
    recorded = read_record(workspace)
    if recorded is None or not any(each.is_alive() for each in (recorded.process, *recorded.servers)):
        raise UserError(f"Nothing runs for {workspace.root}: gpt2flow up starts it.")
    for each in (recorded.process, recorded.server(WORKER)):
        if each and each.is_alive():
            _stop(each)
    stop_leftovers(workspace)
    forget(workspace)


def _stop(identity: Identity) -> None:
    """Ask the process alone, not its group: who was started by a script shares one with others."""
    os.kill(identity.pid, signal.SIGTERM)
    deadline = time.monotonic() + STOP_LIMIT
    while identity.is_alive():
        if time.monotonic() > deadline:
            raise UserError(f"Process {identity.pid} was asked to stop and still works: kill -9 {identity.pid} ends it.")
        time.sleep(0.1)


def _leave_flow_runs_alone(workspace: Workspace) -> None:
    """Kill the worker of a supervisor that was killed: asked to stop, it would stop what trains, which the next one finds."""
    recorded = read_record(workspace)
    worker = recorded.server(WORKER) if recorded else None
    if worker and worker.is_alive():
        os.kill(worker.pid, signal.SIGKILL)


def _supervise(supervisor: Supervisor, stop: StopRequest) -> None:
    while not stop.received:
        supervisor.look()
        time.sleep(LOOK_INTERVAL)


def _worker(workspace: Workspace, servers: list[ServerProcess], at_once: int) -> ServerSpec:
    pages = {server.spec.name: server.spec.page for server in servers}
    url = f"{pages['Prefect']}/api" if "Prefect" in pages else os.environ["PREFECT_API_URL"]
    return ServerSpec(
        name=WORKER,
        command=[sys.executable, "-m", "flows.cli", "worker", "--at_once", str(at_once)],
        port=0,
        health_path="",
        log=workspace.root / "worker.log",
        environment={"PREFECT_API_URL": url},
        stop_limit=STOP_LIMIT,
    )


def _last_line(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return lines[-1] if lines else ""


def _say(text: str) -> None:
    print(text, flush=True)
