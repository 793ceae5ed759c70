"""Checkpoints of runs that have ended, and what only a run that trains has a use for."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from configs.errors import UserError
from configs.retention import RetentionSettings
from tasks.maintenance.leftover import Leftover, of_files
from tasks.maintenance.runs_in_use import KnownRun
from tasks.runs.models import best_checkpoint
from tasks.workspace.folders import Workspace

WEIGHTS = ("step-*", "weights-*")
HALF_MADE = (".tmp", ".damaged")


def run_leftovers(
    workspace: Workspace, runs: Iterable[KnownRun], kept: Mapping[str, str], settings: RetentionSettings, name: str | None
) -> Iterator[Leftover]:
    """Of these runs, or of those of one name: what goes of each, as far as it is old enough. `kept`: whose checkpoints stay."""
    for run in runs:
        old = time.time() - run.worked_on > settings.older_than
        if run.is_unfinished or not old or name not in (None, run.name):
            continue
        if run.folder.id not in kept and (going := _going(run)):
            yield of_files("checkpoints", f"run {run.folder.id}", _why(run), going, workspace.trash)
        passing = [*_half_made(run), *run.folder.path.glob("compiled")]
        if passing and not run.is_pinned:
            yield of_files("half-made or made again", f"run {run.folder.id}", "it is finished", passing, workspace.trash)


def _going(run: KnownRun) -> list[Path]:
    """All checkpoints of what was registered or given up; the best one is all that there is of a run that never was."""
    found = [path for pattern in WEIGHTS for path in run.folder.checkpoints.glob(pattern) if path.suffix not in HALF_MADE]
    if run.version or run.given_up or len(found) < 2:
        return found if run.version or run.given_up else []
    try:
        best = best_checkpoint(run.folder)
    except UserError:  # none is sound: what a person may still save stays
        return []
    return [path for path in found if path != best]


def _why(run: KnownRun) -> str:
    if run.given_up:
        return f"given up: nobody has worked on it since {time.strftime('%Y-%m-%d', time.localtime(run.worked_on))}"
    return f"finished, registered as version {run.version}" if run.version else "finished; its best checkpoint stays"


def _half_made(run: KnownRun) -> list[Path]:
    return [path for suffix in HALF_MADE for path in run.folder.checkpoints.glob(f"*{suffix}")]
