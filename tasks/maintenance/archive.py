"""A backup's file: an ordinary tar whose last member says what belongs into it, each file with its size and its hash.

Not for what is copied in which order (`tasks.workspace.contents`).
"""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path, PurePosixPath
from typing import IO, Any

import xxhash
from pydantic import BaseModel, ConfigDict, ValidationError

from configs.errors import UserError
from gpt2core.machine.durable import fsync, link_file
from gpt2core.machine.sealed_json import DamagedFileError, read_sealed, write_sealed
from tasks.workspace.contents import Scope

FORMAT = 1
CONTENTS = "gpt2flow-backup.json"
PIECE = 1 << 22  # bytes


class StoredFile(BaseModel):
    """A file as it was copied."""

    model_config = ConfigDict(frozen=True)

    bytes: int
    hash: str
    """XXH3-128."""


class Contents(BaseModel):
    """What a backup says of itself."""

    model_config = ConfigDict(frozen=True)

    format: int = FORMAT
    gpt2flow: str
    made: str
    workspace: str
    scope: Scope
    libraries: dict[str, str]
    """Versions that have made the databases."""
    elsewhere: list[str]
    """Databases that the workspace used and that are not in here."""
    files: dict[str, StoredFile]


class ArchiveWriter:
    """Writes files one after the other into a new tar, while others may go on to change them; `finish` completes it."""

    def __init__(self, target: IO[bytes]) -> None:
        self.files: dict[str, StoredFile] = {}
        self._tar = tarfile.TarFile(fileobj=target, mode="w", format=tarfile.PAX_FORMAT)
        self._names: dict[tuple[int, int], str] = {}

    def add(self, together: Iterable[Path], root: Path) -> None:
        """Add files under their paths in `root`, all of them or, where one is gone by now, none."""
        with ExitStack() as stack:
            try:
                opened = {path.relative_to(root).as_posix(): stack.enter_context(path.open("rb")) for path in together}
            except FileNotFoundError:
                return
            for name, file in opened.items():
                self._write(name, file)

    def add_as(self, name: str, path: Path) -> None:
        """Add a file under another name."""
        with path.open("rb") as file:
            self._write(name, file)

    def finish(self, contents: Contents, scratch: Path) -> None:
        """Write the last member, and the end of the tar; `scratch` is a folder for a moment's file."""
        write_sealed(scratch / CONTENTS, contents.model_dump())
        self._tar.add(scratch / CONTENTS, CONTENTS)
        self._tar.close()

    def _write(self, name: str, file: IO[bytes]) -> None:
        """As long as the file is now: logs grow while they are copied. Several names of one file are stored once."""
        status = os.fstat(file.fileno())
        member = tarfile.TarInfo(name)
        member.mtime, member.mode = status.st_mtime, status.st_mode & 0o777
        first = self._names.get((status.st_dev, status.st_ino)) if status.st_nlink > 1 else None
        if first and self.files[first] == (known := _stored(file, status.st_size)):
            member.type, member.linkname = tarfile.LNKTYPE, first
            self._tar.addfile(member)
            self.files[name] = known
            return
        file.seek(0)
        hashed = _Hashing(file)
        member.size = status.st_size
        try:
            self._tar.addfile(member, hashed)
        except OSError as error:
            if error.errno is not None:
                raise
            raise UserError(f"{name} was cut short while it was copied: make the backup again.") from error
        self.files[name] = StoredFile(bytes=member.size, hash=hashed.digest.hexdigest())
        self._names[status.st_dev, status.st_ino] = name


class _Hashing(io.RawIOBase):
    """Hashes what is read through it."""

    def __init__(self, file: IO[bytes]) -> None:
        self.digest = xxhash.xxh3_128()
        self._file = file

    def read(self, size: int = -1) -> bytes:
        piece = self._file.read(size)
        self.digest.update(piece)
        return piece


def _stored(file: IO[bytes], size: int) -> StoredFile:
    hashed, left = _Hashing(file), size
    while piece := hashed.read(min(left, PIECE)):
        left -= len(piece)
    return StoredFile(bytes=size - left, hash=hashed.digest.hexdigest())


def read_contents(archive: Path, scratch: Path) -> Contents:
    """What a backup says of itself; raises UserError where the file is none, or not whole. `scratch` is an empty folder."""
    with _opened(archive) as tar:
        try:
            _copy(_member(tar, tar.getmember(CONTENTS)), scratch / CONTENTS)
            found: dict[str, Any] = read_sealed(scratch / CONTENTS)
        except (KeyError, DamagedFileError, tarfile.TarError, EOFError) as error:
            raise UserError(f"{archive} is no whole backup of gpt2flow: choose another one.") from error
    if found.get("format", 0) > FORMAT:
        raise UserError(f"{archive} was made by a newer gpt2flow ({found.get('gpt2flow')}): restore it with that version.")
    try:
        return Contents.model_validate(found)
    except ValidationError as error:
        raise UserError(f"{archive} is no whole backup of gpt2flow: choose another one.") from error


def verify(archive: Path, contents: Contents) -> None:
    """Read every file of the backup; raises UserError that names the first one that is not as it was written."""
    for name, member, tar in _members(archive, contents):
        with _member(tar, member) as file:
            _require(archive, name, _stored(file, contents.files[name].bytes + 1), contents)


def unpack(archive: Path, contents: Contents, target: Path) -> None:
    """Write every file of the backup below `target`, durably; raises as `verify`."""
    for name, member, tar in _members(archive, contents):
        path = target / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if member.islnk():
            link_file(target / member.linkname, path)
        else:
            with _member(tar, member) as file:
                _require(archive, name, _copy(file, path), contents)
            path.chmod(member.mode)
            os.utime(path, (member.mtime, member.mtime))
            fsync(path)


def _members(archive: Path, contents: Contents) -> Iterator[tuple[str, tarfile.TarInfo, tarfile.TarFile]]:
    """Exactly the files that the contents name; raises UserError where the tar holds others."""
    with _opened(archive) as tar:
        missing = dict(contents.files)
        for member in tar:
            if member.name == CONTENTS:
                continue
            if member.name not in missing or not _is_safe(member, contents):
                raise UserError(f"{archive} holds {member.name}, which is no part of the backup: choose another one.")
            del missing[member.name]
            yield member.name, member, tar
        for name in missing:
            raise UserError(f"{archive} is damaged: {name} is missing; choose another backup.")


def _is_safe(member: tarfile.TarInfo, contents: Contents) -> bool:
    """Whether it is a file, or another name of one, inside."""
    inside = not PurePosixPath(member.name).is_absolute() and ".." not in PurePosixPath(member.name).parts
    same = member.islnk() and contents.files.get(member.linkname) == contents.files[member.name]
    return inside and (member.isreg() or same)


def _opened(archive: Path) -> tarfile.TarFile:
    try:
        return tarfile.open(archive, "r:")
    except FileNotFoundError:
        raise UserError(f"There is no file {archive}: give a backup that gpt2flow backup has made.") from None
    except (tarfile.TarError, OSError) as error:
        raise UserError(f"{archive} is no whole backup of gpt2flow: choose another one.") from error


def _member(tar: tarfile.TarFile, member: tarfile.TarInfo) -> IO[bytes]:
    file = tar.extractfile(member)
    assert file is not None
    return file


def _copy(file: IO[bytes], target: Path) -> StoredFile:
    hashed, size = _Hashing(file), 0
    with target.open("wb") as copy:
        while piece := hashed.read(PIECE):
            size += copy.write(piece)
    return StoredFile(bytes=size, hash=hashed.digest.hexdigest())


def _require(archive: Path, name: str, found: StoredFile, contents: Contents) -> None:
    if found != contents.files[name]:
        raise UserError(f"{archive} is damaged: {name} is not what was written; choose another backup.")
