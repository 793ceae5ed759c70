"""Stopping a run from another terminal, and finding the config to resume it with."""

from __future__ import annotations

import os
import signal
import time

from configs.errors import UserError
from configs.schema import RunConfig
from tasks.runs.find import find_run
from tasks.runs.run_folder import RunFolder
from tasks.workspace.folders import Workspace

PATIENCE = 600.0  # seconds; the update under way and its checkpoint must come to their end


def stop_run(run: RunFolder) -> None:
    """Ask the process that works on the run to stop as SIGTERM does, and wait until it has; raises UserError if none does."""
    process = run.holder()
    if process is None:
        raise UserError(f"Run {run.id} is not running: it is {run.state()}.")
    try:
        os.kill(process, signal.SIGTERM)
    except PermissionError:
        raise UserError(f"Run {run.id} belongs to another user's process {process}: ask that user to stop it.") from None
    deadline = time.monotonic() + PATIENCE
    while run.state() == "running":
        if time.monotonic() > deadline:
            raise UserError(f"Run {run.id} was asked to stop and still works: kill -9 {process} ends it at once.")
        time.sleep(0.1)


def config_to_resume(name: str) -> RunConfig:
    """The config of a run that is not finished; raises UserError if it is, or if somebody works on it."""
    run = find_run(Workspace.current(), name)
    if run.state() in ("running", "finished"):
        raise UserError(f"Run {run.id} is {run.state()}: there is nothing to resume.")
    return run.record.config
