"""A whole workspace in one file, made while it is in use, and put back."""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import datetime
from importlib.metadata import version
from pathlib import Path

from packaging.version import Version

from configs.errors import UserError
from gpt2core.machine.durable import fsync, named_write_errors
from gpt2core.machine.lock import locked
from gpt2core.machine.quantities import bytes_text
from tasks.maintenance.archive import ArchiveWriter, Contents, read_contents, unpack, verify
from tasks.maintenance.in_use import require_unused
from tasks.workspace.contents import DATABASES, Part, Scope, after_databases, before_databases, part_of
from tasks.workspace.databases import databases_elsewhere
from tasks.workspace.folders import Workspace
from tasks.workspace.replacement import LOCK, PREPARED, finish_replacement, make_ready, replace_prepared

MAINTENANCE = "maintenance.lock"
LIBRARIES = ("prefect", "mlflow")


@dataclass(frozen=True)
class Backup:
    """A backup's file and what it holds."""

    file: Path
    contents: Contents

    def sizes(self) -> dict[Part, tuple[int, int]]:
        """Files and bytes of each part."""
        files: Counter[Part] = Counter()
        sizes: Counter[Part] = Counter()
        for name, stored in self.contents.files.items():
            files[part_of(name)] += 1
            sizes[part_of(name)] += stored.bytes
        return {part: (count, sizes[part]) for part, count in files.items()}


@dataclass(frozen=True)
class Restored:
    """What was put back, and where that is which stood there before."""

    backup: Backup
    before: Path | None


def back_up(workspace: Workspace, file: Path, scope: Scope) -> Backup:
    """Copy the workspace into `file`, which appears when it is whole and was read back; runs and servers may go on meanwhile.

    Raises UserError where there is no workspace, the file lies inside it, or the disk is full.
    """
    workspace.require()
    target = file.absolute()
    if workspace.root in target.resolve().parents:
        raise UserError(f"{file} lies inside the workspace and would be lost with it: choose a place on another disk.")
    unfinished = target.with_name(f"{target.name}.tmp")
    with locked(workspace.root / MAINTENANCE), named_write_errors(target), _scratch(workspace.root / "backup") as scratch:
        try:
            contents = _write(workspace, unfinished, scope, scratch)
            verify(unfinished, contents)
            fsync(unfinished)
            unfinished.replace(target)
            fsync(target.parent)
        except BaseException:
            unfinished.unlink(missing_ok=True)
            raise
    return Backup(target, contents)


def restore(workspace: Workspace, file: Path) -> Restored:
    """Put a backup in the place of what it holds; what stood there before is kept.

    Raises UserError where the workspace is in use, or the backup is damaged or of newer libraries; nothing has changed then.
    A kill before the backup was unpacked and verified changes nothing, and after it the next command goes on.
    """
    workspace.root.mkdir(parents=True, exist_ok=True)
    with locked(workspace.root / MAINTENANCE), named_write_errors(workspace.root):
        finish_replacement(workspace)
        require_unused(workspace, "A restore")
        with _scratch(workspace.root / PREPARED) as prepared:
            contents = read_contents(file, prepared)
            _require_libraries(file, contents)
            _require_space(workspace, contents)
            unpack(file, contents, prepared / "new")
            for database in DATABASES:
                _require_sound(prepared / "new" / database, file)
            with locked(workspace.root / LOCK):
                require_unused(workspace, "A restore")
                make_ready(workspace, contents.scope)
                before = replace_prepared(workspace)
    return Restored(Backup(file, contents), before if before and any(before.iterdir()) else None)


def default_name(workspace: Workspace) -> Path:
    """gpt2flow-PROJECT-TIME.tar in the current folder; the project is the folder in which the workspace lies."""
    return Path(f"gpt2flow-{workspace.root.parent.name or 'workspace'}-{datetime.now():%Y%m%d-%H%M%S}.tar")


def _write(workspace: Workspace, target: Path, scope: Scope, scratch: Path) -> Contents:
    with target.open("wb") as file:
        archive = ArchiveWriter(file)
        for together in before_databases(workspace, scope):
            archive.add(together, workspace.root)
        for database in DATABASES:
            if (workspace.root / database).is_file():
                archive.add_as(database, _copied(workspace.root / database, scratch / "database"))
        for together in after_databases(workspace, scope):
            archive.add(together, workspace.root)
        contents = Contents(
            gpt2flow=version("gpt2flow"),
            made=datetime.now().isoformat(timespec="seconds"),
            workspace=str(workspace.root),
            scope=scope,
            libraries={name: version(name) for name in LIBRARIES},
            elsewhere=databases_elsewhere(workspace),
            files=archive.files,
        )
        archive.finish(contents, scratch)
    return contents


def _copied(database: Path, copy: Path) -> Path:
    """As it is at one moment, whoever writes to it, by sqlite's own online backup."""
    copy.unlink(missing_ok=True)
    with closing(sqlite3.connect(database, timeout=60)) as source, closing(sqlite3.connect(copy)) as target:
        source.backup(target)
        target.execute("PRAGMA journal_mode = DELETE")  # all of it in one file
    return copy


def _require_sound(database: Path, file: Path) -> None:
    if not database.is_file():
        return
    with closing(sqlite3.connect(database)) as connection:
        try:
            said = connection.execute("PRAGMA integrity_check").fetchone()[0]
        except sqlite3.DatabaseError as error:
            said = str(error)
    if said != "ok":
        raise UserError(f"{database.name} in {file} is no sound database ({said}): choose another backup.")


def _require_libraries(file: Path, contents: Contents) -> None:
    """Databases are migrated forward only."""
    for name, needed in contents.libraries.items():
        if Version(needed) > Version(version(name)):
            raise UserError(
                f"{file} was made with {name} {needed}, and {version(name)} is installed, which cannot read its database: "
                f"install {name} {needed} first."
            )


def _require_space(workspace: Workspace, contents: Contents) -> None:
    needed, free = sum(stored.bytes for stored in contents.files.values()), shutil.disk_usage(workspace.root).free
    if needed > free:
        raise UserError(
            f"The backup needs {bytes_text(needed)} at {workspace.root} beside what is there, {bytes_text(free)} are free: "
            "free some space, or set GPT2FLOW_HOME to another disk."
        )


@contextmanager
def _scratch(folder: Path) -> Iterator[Path]:
    """A folder for what is being prepared, empty at first; what is left in it goes at the end, or the next time."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    try:
        yield folder
    finally:
        if os.path.lexists(folder):
            shutil.rmtree(folder, ignore_errors=True)
