"""Which flow runs of this workspace have a living process: each holds a lock file, which any kill frees.

flow-runs/ID.lock   held while a process works on the flow run; its time stamp is that of the last progress
flow-runs/ID.log    what a process that the worker has started wrote

The file stays until the flow run has come to its end, however often its process dies before.
"""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from uuid import UUID

from gpt2core.machine.lock import is_held, locked
from tasks.workspace.folders import Workspace

KEPT_LOGS = 100
PROGRESS_INTERVAL = 1.0  # seconds; a finer time stamp would be of no use


@dataclass(frozen=True)
class Record:
    """What is known about a flow run beside Prefect: how often its process has died, and which one works on it now."""

    deaths: int = 0
    process: int = 0
    host: str = ""
    worker: int = 0
    """Process id of the worker that has started it; 0 where it was started by hand."""
    stalled_after: int = 0
    """Seconds without progress after which its process is killed; 0: never."""


@dataclass(frozen=True)
class FlowRunLock:
    """The lock file of one flow run."""

    path: Path

    @classmethod
    def of(cls, workspace: Workspace, flow_run: UUID) -> FlowRunLock:
        """The lock of that flow run, whether the file is there or not."""
        return cls(workspace.flow_runs / f"{flow_run}.lock")

    @property
    def flow_run(self) -> UUID:
        """Id of the flow run in Prefect."""
        return UUID(self.path.stem)

    @property
    def log(self) -> Path:
        """Output of the flow run's process."""
        return self.path.with_suffix(".log")

    @property
    def is_held(self) -> bool:
        """Whether a living process works on the flow run."""
        return is_held(self.path)

    @property
    def seconds_without_progress(self) -> float:
        """How long ago the flow run's process last said that it came on."""
        return time.time() - self.path.stat().st_mtime

    def read(self) -> Record:
        """What is recorded; a file that a kill left half-written says nothing."""
        with suppress(FileNotFoundError, ValueError, TypeError):
            return Record(**json.loads(self.path.read_text(encoding="utf-8")))
        return Record()

    def write(self, record: Record) -> None:
        """Replace the record. In place, since the lock hangs on the file; only its holder may."""
        self.path.write_text(json.dumps(asdict(record)), encoding="utf-8")

    @contextmanager
    def taken(self) -> Iterator[int | None]:
        """Hold the lock inside; gives its file descriptor, which a child may inherit and then holds it too; None if held.

        Waits while somebody holds the folder of the locks (see `none_may_begin`).
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with ExitStack() as stack:
            with locked(self.path.parent):
                descriptor = self._take(stack)
            yield descriptor

    def remove(self) -> None:
        """The flow run has come to its end. Only the holder may; of what flow runs wrote the latest is kept."""
        self.path.unlink(missing_ok=True)
        logs = [log for log in self.path.parent.glob("*.log") if not log.with_suffix(".lock").exists()]
        for old in sorted(logs, key=lambda log: log.stat().st_mtime)[:-KEPT_LOGS]:
            old.unlink(missing_ok=True)

    def _take(self, stack: ExitStack) -> int | None:
        """Who got the lock of a file that was removed meanwhile has locked nothing, and takes that of the new one."""
        while True:
            try:
                with ExitStack() as attempt:
                    descriptor = attempt.enter_context(locked(self.path, wait=False))
                    if os.path.samestat(os.fstat(descriptor), self.path.stat()):
                        stack.push(attempt.pop_all())
                        return descriptor
            except BlockingIOError:
                return None
            except FileNotFoundError:
                continue


def all_locks(workspace: Workspace) -> list[FlowRunLock]:
    """Of all flow runs of this workspace that have not come to their end."""
    return [FlowRunLock(path) for path in sorted(workspace.flow_runs.glob("*.lock"))]


@contextmanager
def none_may_begin(workspace: Workspace) -> Iterator[None]:
    """Inside, no flow run of this workspace begins: each waits before it takes its lock, so `all_locks` stays true."""
    workspace.flow_runs.mkdir(parents=True, exist_ok=True)
    with locked(workspace.flow_runs):
        yield


_current: list[FlowRunLock] = []


@contextmanager
def working_on(flow_run: UUID) -> Iterator[bool]:
    """Inside, this process is known to work on the flow run. Gives whether a worker has started it.

    The lock that a worker has taken is inherited, and its descriptor is open anyway; otherwise it is taken here.
    """
    lock = FlowRunLock.of(Workspace.current(), flow_run)
    with lock.taken() as descriptor:
        by_worker = descriptor is None
        if not by_worker:
            lock.write(replace(lock.read(), process=os.getpid(), host=socket.gethostname(), worker=0))
        _current.append(lock)
        try:
            yield by_worker
        finally:
            _current.remove(lock)


def note_progress() -> None:
    """The flow run that this process works on has come on: a step was made, a piece of text encoded, a stage finished."""
    for lock in _current:
        with suppress(OSError):
            if lock.seconds_without_progress > PROGRESS_INTERVAL:
                os.utime(lock.path)
