"""Something that nothing needs any more: what it is, why it may go, what it takes, and how it goes in two steps.

The first step takes it out of use in an instant, the second one frees its space; a kill between them leaves the second one to
the next time.
"""

from __future__ import annotations

import errno
import os
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tasks.workspace.folders import Workspace

Kind = Literal["version", "checkpoints", "token store", "MLflow artifacts", "half-made or made again", "record"]


def _nothing() -> None:
    """There is no such step."""


@dataclass(frozen=True)
class Leftover:
    """One row of what gc shows."""

    kind: Kind
    name: str
    why: str
    bytes: int
    detach: Callable[[], None] = _nothing
    """Take it out of use; needs what `collection.excluding_others` holds."""
    delete: Callable[[], None] = _nothing
    """Free its space, after `detach`."""


def of_files(kind: Kind, name: str, why: str, paths: Iterable[Path], trash: Path) -> Leftover:
    """Files and folders that go to the trash together."""
    going = list(paths)
    return Leftover(kind, name, why, freed_by(going), lambda: discard(going, trash))


def discard(paths: Iterable[Path], trash: Path) -> None:
    """Move each to the trash, so that no moment shows half of it; one on another disk is removed where it is."""
    trash.mkdir(exist_ok=True)
    for path in paths:
        try:
            path.rename(trash / f"{time.time_ns()}-{path.name}")
        except FileNotFoundError:
            continue
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            shutil.rmtree(path)


def empty_trash(workspace: Workspace) -> None:
    """Free the space of what was discarded, this time or before a kill."""
    shutil.rmtree(workspace.trash, ignore_errors=True)


def freed_by(paths: Iterable[Path]) -> int:
    """Bytes that are free once these are gone; a file that has a name elsewhere stays."""
    names: Counter[tuple[int, int]] = Counter()
    found: dict[tuple[int, int], os.stat_result] = {}
    for file in _files(paths):
        status = file.lstat()
        names[status.st_dev, status.st_ino] += 1
        found[status.st_dev, status.st_ino] = status
    return sum(status.st_size for key, status in found.items() if names[key] >= status.st_nlink)


def last_change(path: Path) -> float:
    """When a file, or anything in a folder, has changed last, in seconds since 1970."""
    return max((file.lstat().st_mtime for file in _files([path])), default=path.lstat().st_mtime)


def _files(paths: Iterable[Path]) -> Iterator[Path]:
    for path in paths:
        if path.is_dir() and not path.is_symlink():
            yield from (Path(parent, name) for parent, _, names in os.walk(path) for name in names)
        elif path.exists():
            yield path
