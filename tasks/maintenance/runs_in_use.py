"""What the runs and nights of a workspace need: their own checkpoints, token stores, base models."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from configs.retention import RetentionSettings
from gpt2core.checkpoints.checkpoint import find_checkpoints, read_state
from gpt2core.machine.sealed_json import DamagedFileError
from tasks.runs.find import last_worked_on
from tasks.runs.run_folder import RunFolder, RunState
from tasks.scheduling.nights import Night, all_nights
from tasks.workspace.folders import Workspace


@dataclass(frozen=True)
class KnownRun:
    """A run as far as others may depend on it."""

    folder: RunFolder
    name: str
    store: str
    base: str
    origin: str | None
    """Path of the checkpoint that it began with."""
    state: RunState
    worked_on: float
    """Seconds since 1970."""
    is_pinned: bool
    version: str | None
    """The version that it was registered as, whatever became of that."""
    given_up: bool
    """Whether it could be resumed, and nobody has tried for so long that it counts as ended."""

    @property
    def is_unfinished(self) -> bool:
        """Whether it may still be resumed."""
        return self.state != "finished" and not self.given_up


@dataclass(frozen=True)
class RunsInUse:
    """All runs, and what they need of each other and of the registry."""

    runs: list[KnownRun]
    reasons: dict[str, str]
    """By run: why its checkpoints stay."""
    stores: frozenset[str]
    bases: frozenset[str]
    """Of unfinished runs and nights: models:/NAME/VERSION and other references."""

    @property
    def unfinished(self) -> list[KnownRun]:
        """Runs that may still be resumed."""
        return [run for run in self.runs if run.is_unfinished]


def look_at_runs(workspace: Workspace, settings: RetentionSettings, bases_of_versions: Iterable[str] = ()) -> RunsInUse:
    """Read all runs; a base that is a run, of a run or of a version, keeps that run's checkpoints."""
    folders = (RunFolder(path) for path in workspace.runs.glob("*/") if path.is_dir())
    runs = [known for folder in folders if (known := _known(folder, settings))]
    runs.sort(key=lambda run: run.worked_on, reverse=True)
    unfinished = [run for run in runs if run.is_unfinished]
    bases = {run.base for run in unfinished} | {night.base for night in _open_nights(workspace, settings)}
    begun_from = [*(run.origin for run in unfinished if run.origin), *bases, *bases_of_versions]
    latest = {run.name: run for run in reversed(runs) if run.state == "finished"}
    reasons = {run.folder.id: "it is the latest finished run of its name" for run in latest.values()}
    reasons |= {run.folder.id: "others began with it" for base in begun_from if (run := _named(base, runs))}
    reasons |= {run.folder.id: "a checkpoint of it is pinned" for run in runs if run.is_pinned}
    reasons |= {run.folder.id: f"it is {run.state}" for run in unfinished}
    needing = [*unfinished, *latest.values(), *(run for run in runs if run.is_pinned)]
    return RunsInUse(runs, reasons, frozenset(run.store for run in needing), frozenset(bases))


def _known(folder: RunFolder, settings: RetentionSettings) -> KnownRun | None:
    """None where nothing of a run is there, or nothing that can be read."""
    record = folder.read_record()
    from_checkpoint = None if record else _from_newest_checkpoint(folder)
    if record is None and from_checkpoint is None:
        return None
    config, store = (record.settings, record.store) if record else from_checkpoint or ({}, "")
    state, worked_on = folder.state(), last_worked_on(folder)
    limit = settings.abandoned_after
    return KnownRun(
        folder=folder,
        name=str(config.get("name")),
        store=store,
        base=str(config.get("model", {}).get("base", "scratch")),
        origin=record.origin.path if record and record.origin else None,
        state=state,
        worked_on=worked_on,
        is_pinned=any(folder.checkpoints.glob("*.pin")),
        version=folder.read("result").get("version"),
        given_up=limit is not None and state in ("stopped", "failed") and time.time() - worked_on > limit,
    )


def _from_newest_checkpoint(folder: RunFolder) -> tuple[dict[str, Any], str] | None:
    """Config and store where run.json is damaged: a resumed run makes that again from the same place."""
    for checkpoint in reversed(find_checkpoints(folder.checkpoints)):
        with suppress(OSError, DamagedFileError):
            state = read_state(checkpoint)
            return state.settings, state.store or ""
    return None


def _named(reference: str, runs: list[KnownRun]) -> KnownRun | None:
    """The run that a base model or a path means, `runs` in the order in which `find_run` looks."""
    if re.match(r"scratch$|models:/|hub:", reference):
        return None
    path = Path(reference).expanduser().absolute()
    inside = [run for run in runs if run.folder.path == path or run.folder.path in path.parents]
    exact = [run for run in runs if run.folder.id == reference]
    return next(iter([*inside, *exact, *(run for run in runs if run.folder.id.startswith(reference))]), None)


def _open_nights(workspace: Workspace, settings: RetentionSettings) -> list[Night]:
    """Nights that may go on: not ended, and the last one of their name or a young one."""
    found: list[Night] = []
    for folder in workspace.nights.glob("*/"):
        nights = all_nights(folder.name)
        found += [night for night in nights if not night.ended and (night is nights[-1] or _age(night) <= settings.older_than)]
    return found


def _age(night: Night) -> float:
    return (datetime.now() - datetime.fromisoformat(night.begun)).total_seconds()
