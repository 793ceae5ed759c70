"""What a workspace is made of, for those who copy it: which files belong to it, to which part, and in which order.

Not what the files mean. A file that this module does not know is a record, so what later versions add is copied as well.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path, PurePath
from typing import Literal

from tasks.workspace.folders import Workspace
from tasks.workspace.team_file import NAME as TEAM_FILE

Part = Literal["records", "checkpoints", "token stores", "databases", "models and artifacts"]
Scope = Literal["everything", "records", "databases"]

DATABASES = ("mlflow/mlflow.db", "prefect/prefect.db")
VERSIONS = "databases.json"
ARTIFACTS = "mlflow/artifacts"
PARTS: dict[Scope, tuple[Part, ...]] = {
    "everything": ("records", "checkpoints", "token stores", "databases", "models and artifacts"),
    "records": ("records", "databases", "models and artifacts"),
    "databases": ("databases",),
}
OUTCOMES = ("run.json", "result.json", "failure.json", "tracking.json")
PASSING = (
    "copy-indexes",
    "dashboard.json",
    "databases.lock",
    "maintenance.lock",
    "trash",
    "backup",
    "restore",
    "restore.ready",
    "fetched-models",
    TEAM_FILE,
)
"""What is made again by itself, is true of this moment alone, or holds passwords, which no backup should."""
KEPT_BEFORE = "before-restore-"
INDEX = ".index.sqlite"
"""Of files that were read, beside the token stores; a lost one is made again."""


def units(workspace: Workspace) -> list[str]:
    """Names of the files and folders of the workspace that are replaced as one, without what is passing."""
    found = []
    for path in sorted(workspace.root.iterdir()):
        inner = sorted(path.iterdir()) if path.name in ("mlflow", "prefect") else [path]
        found += [each.relative_to(workspace.root).as_posix() for each in inner]
    return [name for name in found if not is_passing(name)]


def is_passing(name: str) -> bool:
    """Whether a unit is no lasting part of the workspace: locks, logs, what is half-written."""
    path = PurePath(name)
    return path.parts[0] in PASSING or path.suffix in (".log", ".tmp") or name.startswith(KEPT_BEFORE)


def is_replaced(unit: str, scope: Scope) -> bool:
    """Whether a restore of this scope puts another unit in the place of this one."""
    database = unit == VERSIONS or unit.startswith(DATABASES)  # with their journals
    return database or (scope != "databases" and (unit != "stores" or scope == "everything"))


def part_of(name: str) -> Part:
    """The part that a file belongs to, by its path in the workspace."""
    parts = PurePath(name).parts
    if name == VERSIONS or name in DATABASES:
        return "databases"
    if name.startswith(f"{ARTIFACTS}/"):
        return "models and artifacts"
    if parts[0] == "stores":
        return "token stores"
    return "checkpoints" if parts[0] == "runs" and parts[2:3] in (("checkpoints",), ("compiled",)) else "records"


def before_databases(workspace: Workspace, scope: Scope) -> Iterator[list[Path]]:
    """Files that are to be opened together, in the order in which they are to be copied while all goes on.

    What says that something is done comes before that thing, so that no copy claims more than it holds: nights and outcomes
    before the checkpoints and versions that they came to, checkpoints before the logs that are cut back to them.
    """
    if scope == "databases":
        return
    yield from _records(workspace)
    for run in sorted(workspace.runs.glob("*/")):
        yield from _run(run, scope)
    if scope == "everything":
        yield from ([file] for file in _files(workspace.stores))


def after_databases(workspace: Workspace, scope: Scope) -> Iterator[list[Path]]:
    """As `before_databases`: what the databases name, and what is only added to while they are in use."""
    yield from ([file] for file in [workspace.root / VERSIONS] if file.is_file())
    if scope != "databases":
        yield from ([file] for file in _files(workspace.mlflow_artifacts))


def _records(workspace: Workspace) -> Iterator[list[Path]]:
    first = [name for name in ("nights", "promotions", "flow-runs") if (workspace.root / name).is_dir()]
    apart = (*first, "runs", "stores", ARTIFACTS, VERSIONS)
    others = [name for name in units(workspace) if name not in apart and not name.startswith(DATABASES)]
    for name in [*first, *others]:
        path = workspace.root / name
        yield from ([file] for file in (_files(path) if path.is_dir() else [path]))


def _run(run: Path, scope: Scope) -> Iterator[list[Path]]:
    yield from ([run / name] for name in OUTCOMES)
    if scope == "everything":
        yield from _checkpoints(run / "checkpoints")
        yield from ([file] for file in _files(run / "compiled"))
    logs = sorted(run.glob("*.jsonl"))
    yield from ([log] for log in logs)
    seen = {run / name for name in OUTCOMES}.union(logs)
    others = (file for file in _files(run) if file not in seen)
    yield from ([file] for file in others if part_of(f"runs/{file.relative_to(run.parent).as_posix()}") == "records")


def _checkpoints(folder: Path, rounds: int = 5) -> Iterator[list[Path]]:
    """Each whole folder together. One that is pruned meanwhile gives way to a newer one, which the next look finds."""
    done: set[Path] = set()
    for _ in range(rounds):
        found = sorted(path for path in folder.glob("*") if path not in done and path.suffix not in (".tmp", ".damaged"))
        for path in found:
            with suppress(FileNotFoundError):
                yield sorted(path.iterdir()) if path.is_dir() else [path]
        done.update(found)


def _files(folder: Path) -> list[Path]:
    """All files below, by name, without what is half-written or made again; MLflow's artifacts may be called as they like."""
    anything = folder.parts[-2:] == ("mlflow", "artifacts")
    found = (Path(parent, name) for parent, _, names in os.walk(folder) for name in names)  # one that goes is no error
    return sorted(file for file in found if file.is_file() and (anything or _is_lasting(file, folder)))


def _is_lasting(file: Path, folder: Path) -> bool:
    parts = [PurePath(part) for part in file.relative_to(folder).parts]
    return not file.name.startswith(INDEX) and not any(part.suffix in (".tmp", ".log") for part in parts)
