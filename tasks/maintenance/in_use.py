"""Who uses a workspace now: by the locks that a kill frees, by the record of its servers, and by the files that are open."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil

from configs.errors import UserError
from gpt2core.machine.lock import is_held
from tasks.runs.flow_run_locks import all_locks
from tasks.runs.run_folder import RunFolder
from tasks.servers.running import read_record
from tasks.workspace.folders import Workspace


def require_unused(workspace: Workspace, what: str) -> None:
    """Raises UserError where somebody uses the workspace; `what` is not possible then."""
    if user := next(users_of(workspace), None):
        raise UserError(f"{workspace.root} is in use: {user}. {what} needs it for itself: stop that first.")


def users_of(workspace: Workspace) -> Iterator[str]:
    """Sentences about who uses the workspace, without this process."""
    recorded = read_record(workspace)
    if recorded and any(each.is_alive() for each in (recorded.process, *recorded.servers)):
        yield f"gpt2flow up or dashboard serves it (process {recorded.process.pid}; gpt2flow down stops it)"
    for lock in sorted(workspace.runs.glob("*/lock")):
        if is_held(lock):
            yield f"run {lock.parent.name} is being trained (process {RunFolder(lock.parent).holder()})"
    for flow_run in all_locks(workspace):
        if flow_run.is_held:
            yield f"flow run {flow_run.flow_run} is under way (process {flow_run.read().process})"
    if is_held(workspace.stores):
        yield "text is being encoded"
    for process in psutil.process_iter():
        if process.pid != os.getpid() and (file := _open_file(process, workspace.root)):
            yield f"process {process.pid} ({process.name()}) has {file} open"


def _open_file(process: psutil.Process, root: Path) -> str:
    """A file below `root` that the process has open; of other users' processes nothing is known."""
    with suppress(psutil.Error, OSError):
        return next((file.path for file in process.open_files() if root in Path(file.path).parents), "")
    return ""
