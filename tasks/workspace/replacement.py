"""Putting other files in the place of a workspace's own, so that a kill at any moment loses nothing.

restore/                 what is being prepared; nothing of it counts yet
restore.ready/plan.json  which units go and which come; once it is there, any process goes on after a kill
restore.ready/new/       what is to be put in place
restore.ready/old/       what stood there before; it stays, as before-restore-TIME/old/
"""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path

from gpt2core.machine.durable import fsync, write_json
from gpt2core.machine.lock import locked
from tasks.workspace.contents import KEPT_BEFORE, Scope, is_replaced, units
from tasks.workspace.folders import Workspace

PREPARED, READY, PLAN = "restore", "restore.ready", "plan.json"
LOCK = "databases.lock"


def finish_replacement(workspace: Workspace) -> None:
    """Go on with a replacement that a kill has interrupted; returns at once where there is none."""
    if (workspace.root / READY).is_dir():
        with locked(workspace.root / LOCK):
            replace_prepared(workspace)


def make_ready(workspace: Workspace, scope: Scope) -> None:
    """What was prepared in `restore/new` is whole and durable. Needs LOCK, as `replace_prepared` does."""
    prepared = workspace.root / PREPARED
    going = [unit for unit in units(workspace) if is_replaced(unit, scope)]
    (prepared / "old").mkdir()
    write_json(prepared / PLAN, {"going": going, "coming": units(Workspace(prepared / "new"))})
    fsync(prepared)
    prepared.rename(workspace.root / READY)
    fsync(workspace.root)


def replace_prepared(workspace: Workspace) -> Path | None:
    """Put in place what is ready, unit by unit; returns where the old is kept, None where nothing was ready."""
    ready = workspace.root / READY
    if not ready.is_dir():
        return None
    plan = json.loads((ready / PLAN).read_text(encoding="utf-8"))
    for unit in plan["going"]:
        if not (ready / "old" / unit).exists():
            _move(workspace.root / unit, ready / "old" / unit)
    for unit in plan["coming"]:
        _move(ready / "new" / unit, workspace.root / unit)
    for folder in (workspace.root, *(workspace.root / name for name in ("mlflow", "prefect"))):
        if folder.is_dir():
            fsync(folder)
    kept = workspace.root / f"{KEPT_BEFORE}{datetime.now():%Y%m%d-%H%M%S}"
    ready.rename(kept)
    fsync(workspace.root)
    return kept / "old"


def _move(source: Path, target: Path) -> None:
    """One that is gone was moved before the kill."""
    if source.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        source.rename(target)
