"""Which servers run for a workspace, kept in its dashboard.json, so that others find them and a killed owner's are stopped."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from configs.errors import UserError
from gpt2core.machine.durable import write_json
from tasks.servers.server_process import Identity, ServerProcess, stop_all, stop_leftover
from tasks.workspace.folders import Workspace


@dataclass(frozen=True)
class RunningDashboard:
    """Who serves the dashboard of a workspace, and where."""

    process: Identity
    servers: list[Identity]
    addresses: dict[str, str]

    def server(self, name: str) -> Identity | None:
        """The process of that name, which may have ended."""
        return dict(zip(self.addresses, self.servers, strict=False)).get(name)

    def address_of(self, name: str) -> str:
        """Where the server of that name is to be found; empty where it does not run."""
        server = self.server(name)
        return self.addresses[name] if server and server.is_alive() else ""


def running_dashboard(workspace: Workspace) -> RunningDashboard | None:
    """The dashboard that is served for this workspace now, if there is one."""
    recorded = read_record(workspace)
    return recorded if recorded and recorded.process.is_alive() else None


def refuse_second(workspace: Workspace) -> None:
    """Raise UserError where the workspace's servers run already."""
    if running := running_dashboard(workspace):
        where = ", ".join(f"{name} {address}" for name, address in running.addresses.items() if address)
        raise UserError(
            f"The dashboard of {workspace.root} runs already: {where}; stop process {running.process.pid} to start another."
        )


def stop_leftovers(workspace: Workspace) -> None:
    """Stop the servers of a dashboard that was killed before it could do so itself."""
    recorded = read_record(workspace)
    for server in recorded.servers if recorded else []:
        stop_leftover(server)


@contextmanager
def stopped_at_the_end(workspace: Workspace) -> Iterator[list[ServerProcess]]:
    """A list whose servers are stopped at the end, whatever ends it, and the record of them removed."""
    servers: list[ServerProcess] = []
    try:
        yield servers
    finally:
        stop_all(servers)
        forget(workspace)


def record(workspace: Workspace, servers: list[ServerProcess]) -> None:
    """Note the servers that run now, and that this process looks after them."""
    addresses = {server.spec.name: server.spec.page for server in servers}
    dashboard = RunningDashboard(Identity.of(os.getpid()), [server.identity for server in servers], addresses)
    write_json(_record_file(workspace), asdict(dashboard))


def forget(workspace: Workspace) -> None:
    """Nothing runs any more."""
    _record_file(workspace).unlink(missing_ok=True)


def read_record(workspace: Workspace) -> RunningDashboard | None:
    """What was noted last, whether it still runs or not."""
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
