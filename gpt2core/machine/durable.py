"""Files and folders that are either there as a whole or not at all, also after a power cut."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import xxhash

from configs.errors import UserError


@contextmanager
def publish_folder(target: Path) -> Iterator[Path]:
    """Yield `<target>.tmp` to write into; at the end every file is fsynced and the folder renamed to `target`.

    On an error the temporary folder is removed. A stale one is replaced. Raises UserError where the disk is full or
    writing is not allowed.
    """
    temporary = target.with_name(target.name + ".tmp")
    with named_write_errors(target):
        try:
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir(parents=True)
            yield temporary
            for path in [*temporary.rglob("*"), temporary]:
                fsync(path)
            temporary.rename(target)
            fsync(target.parent)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise


def remove_folder(path: Path) -> None:
    """Remove a folder so that no moment shows half of it: it is renamed to `<path>.tmp` first. A missing one is fine."""
    doomed = path.with_name(path.name + ".tmp")
    shutil.rmtree(doomed, ignore_errors=True)
    if path.exists():
        path.rename(doomed)
        shutil.rmtree(doomed)


def link_file(file: Path, target: Path) -> None:
    """Give a file a second name, which stays when the first one goes; a copy where the file system knows no hard links."""
    try:
        os.link(file, target)
    except OSError:
        shutil.copyfile(file, target)


def write_json(path: Path, value: Any) -> None:
    """Replace `path` by the value as JSON, atomically and durably."""
    write_text(path, as_json(value))


def write_text(path: Path, text: str) -> None:
    """Replace `path` by the text, atomically and durably."""
    temporary = path.with_name(path.name + ".tmp")
    with named_write_errors(path):
        try:
            temporary.write_text(text, encoding="utf-8")
            fsync(temporary)
            temporary.replace(path)
            fsync(path.parent)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


def as_json(value: Any) -> str:
    """The text that `write_json` writes."""
    return json.dumps(value, indent=1, ensure_ascii=False) + "\n"


def fsync(path: Path) -> None:
    """Force a file's or folder's content to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def file_hash(path: Path) -> str:
    """XXH3-128 of a file's content, read in pieces: finds every accidental change at memory speed."""
    digest = xxhash.xxh3_128()
    with path.open("rb") as file:
        while piece := file.read(1 << 22):
            digest.update(piece)
    return digest.hexdigest()


def require_place(path: Path) -> None:
    """Raises UserError where a file of this name cannot be written, before any work is done for it."""
    with named_write_errors(path):
        if not path.parent.is_dir():
            raise UserError(f"The folder {path.parent} does not exist: create it, or choose another --output.")
        if path.is_dir():
            raise UserError(f"{path} is a folder: choose a file as --output.")
        _try_out(path.parent)


def require_folder(path: Path) -> None:
    """Raises UserError where nothing can be written into a folder of this name, which need not be there yet."""
    with named_write_errors(path):
        _try_out(next(place for place in (path, *path.absolute().parents) if place.exists()))


def _try_out(folder: Path) -> None:
    """Make a file without a name: permissions alone do not say whether a file system takes any."""
    with TemporaryFile(dir=folder):
        pass


@contextmanager
def named_write_errors(target: Path) -> Iterator[None]:
    """Turn a full disk or a forbidden write into a sentence that names the place and the remedy."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise UserError(f"The disk is full at {target}: free some space and run the same command again.") from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise UserError(f"{target} cannot be written ({error.strerror}): correct its permissions.") from error
        if error.errno in _NO_PLACE or _is_missing(error, target.parent):
            raise UserError(f"{target} cannot be written ({error.strerror}): choose another place.") from error
        raise


_NO_PLACE = (
    errno.EEXIST,
    errno.ENOTDIR,
    errno.EISDIR,
    errno.ENAMETOOLONG,
    errno.ELOOP,
    errno.EINVAL,
    errno.EIO,
    errno.EOPNOTSUPP,
)


def _is_missing(error: OSError, folder: Path) -> bool:
    """Whether a file in the folder is missing, which is what a file system says that takes no files, such as /proc."""
    return error.errno == errno.ENOENT and error.filename is not None and folder in Path(error.filename).parents
