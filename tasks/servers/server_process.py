"""A server as a child of this process: its process group, its log file, whether it answers and how it ends."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException
from pathlib import Path

import psutil

HOST = "127.0.0.1"
STOP_LIMIT = 10.0  # seconds between asking a server to end and killing it
PORTS_TRIED = 20


@dataclass(frozen=True)
class ServerSpec:
    """What starts a server and where it answers; port 0 is that of a process which has none."""

    name: str
    command: list[str]
    port: int
    health_path: str
    log: Path
    environment: dict[str, str] = field(default_factory=dict)
    front_page: str = ""
    stop_limit: float = STOP_LIMIT
    host: str = HOST
    """Where it is reached from this machine."""

    @property
    def page(self) -> str:
        """URL for a browser on this machine; empty for a process that listens nowhere."""
        return f"{web_address(self.host, self.port)}{self.front_page}" if self.port else ""


@dataclass(frozen=True)
class Identity:
    """A process that cannot be mistaken for a later one with the same id."""

    pid: int
    created: float

    @classmethod
    def of(cls, pid: int) -> Identity:
        """The identity of a living process; raises psutil.NoSuchProcess."""
        return cls(pid, psutil.Process(pid).create_time())

    def is_alive(self) -> bool:
        """Whether this very process still runs."""
        try:
            return Identity.of(self.pid) == self and psutil.Process(self.pid).status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return False


class ServerProcess:
    """A started server. It leads its own process group, so that everything it starts ends with it."""

    def __init__(self, spec: ServerSpec) -> None:
        self.spec = spec
        if spec.log.exists():  # what the one before said of its end
            spec.log.replace(spec.log.with_suffix(".previous.log"))
        with spec.log.open("wb") as log:
            self._process = subprocess.Popen(
                spec.command,
                env={**os.environ, **spec.environment},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.identity = Identity.of(self._process.pid)

    def exit_code(self) -> int | None:
        """None while the server runs."""
        return self._process.poll()

    def answers(self) -> bool:
        """Whether its health page says that it is up."""
        if not self.spec.port:
            return self.exit_code() is None
        connection = HTTPConnection(self.spec.host, self.spec.port, timeout=2)
        try:
            connection.request("GET", self.spec.health_path)
            return connection.getresponse().status == 200
        except (OSError, HTTPException):
            return False
        finally:
            connection.close()

    def last_words(self, lines: int = 12) -> str:
        """The end of its log file."""
        return "\n".join(self.spec.log.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])

    def ask_to_stop(self) -> None:
        """Send SIGTERM to the whole group; returns at once."""
        _signal_group(self.identity.pid, signal.SIGTERM)

    def wait_until_gone(self) -> None:
        """Wait until nothing of the group is left, and kill what does not go in time."""
        deadline = time.monotonic() + self.spec.stop_limit
        while self._group_exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        _signal_group(self.identity.pid, signal.SIGKILL)
        self._process.wait()

    def _group_exists(self) -> bool:
        self._process.poll()  # a leader that is not reaped counts as a member of its group
        return _signal_group(self.identity.pid, 0)


def stop_all(servers: Iterable[ServerProcess]) -> None:
    """Stop servers side by side, with everything that they started."""
    started = list(servers)
    for server in started:
        server.ask_to_stop()
    for server in started:
        server.wait_until_gone()


def stop_leftover(identity: Identity, patience: float = STOP_LIMIT) -> None:
    """End a server that is not this process's child, as after a kill of its parent; does nothing if it is gone."""
    if not identity.is_alive():
        return
    _signal_group(identity.pid, signal.SIGTERM)
    deadline = time.monotonic() + patience
    while identity.is_alive() and time.monotonic() < deadline:
        time.sleep(0.05)
    _signal_group(identity.pid, signal.SIGKILL)


def web_address(host: str, port: int) -> str:
    """URL of what listens there."""
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


def free_port(wanted: int, avoid: Iterable[int] = ()) -> int | None:
    """The wanted port or the first free one of those that follow; None if 20 in a row are taken."""
    candidates = range(wanted, min(wanted + PORTS_TRIED, 65536))
    return next((port for port in candidates if port not in set(avoid) and is_free(port)), None)


def is_free(port: int) -> bool:
    """Whether a server could listen on this port of 127.0.0.1 (one that listens on all interfaces counts too)."""
    with socket.socket() as probe:
        probe.settimeout(1)
        if probe.connect_ex((HOST, port)) == 0:
            return False
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


def _signal_group(group: int, number: int) -> bool:
    """Send a signal to a process group; False if it has no members any more."""
    try:
        os.killpg(group, number)
    except (ProcessLookupError, PermissionError):  # macOS answers a group of zombies with a permission error
        return False
    return True
