"""Stopping a run from another terminal, and finding the config to resume it with."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Mapping
from typing import Any

from configs.errors import UserError
from configs.influence import Influence, settings_by_name
from configs.loading import with_overrides
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


def config_to_resume(name: str, overrides: Mapping[str, Any] | None = None) -> RunConfig:
    """The config of a run that is not finished, with overrides (nested like a config) that leave it the same run.

    Raises UserError if it is finished, if somebody works on it, or if an override would make it another run.
    """
    run = find_run(Workspace.current(), name)
    if run.state() in ("running", "finished"):
        raise UserError(f"Run {run.id} is {run.state()}: there is nothing to resume.")
    begun = run.record.config
    config = with_overrides(begun, overrides or {})
    for influence in (Influence.SETTLES, None, Influence.APART):
        before, after = settings_by_name(begun, influence), settings_by_name(config, influence)
        if other := [setting for setting in after if after[setting] != before.get(setting)]:
            raise UserError(
                f"--{other[0]} would make it another run than {run.id}, where it is {before.get(other[0])}: leave it away, or "
                "start one by gpt2flow run."
            )
    return config
