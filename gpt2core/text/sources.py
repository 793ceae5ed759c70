"""From `data.source` to files: paths, folders, globs, URLs, data sets of Hugging Face's library, the built-in corpus.

Each file is known by its content's hash. Reading documents out of the files is in `documents`.
"""

from __future__ import annotations

import glob
import hashlib
import io
import os
import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Protocol, TypeVar

from configs.errors import UserError
from configs.schema import DataSettings

END_OF_TEXT = "<|endoftext|>"
PYTHON_TOPICS = "builtin:python-topics"
DATASET = "dataset:"
ARROW_DATASET = {"state.json", "dataset_info.json"}
"""Files by which a folder of `datasets.save_to_disk` is known: its text is in the .arrow files alone."""
CHUNK = 1 << 20

Result = TypeVar("Result")


@dataclass(frozen=True)
class SourceFile:
    """One file of the corpus as it was when it was found."""

    source: str
    """Name inside the given folder, glob or URL (posix), so that the same corpus has the same names on any machine."""
    location: str
    """Path, URL or built-in name: where it lies."""
    n_bytes: int
    sha256: str
    """Hash of the content as it lies there."""
    stamp: str
    """Changes whenever the file is written: size, times and inode, or what a remote store says."""
    validation: bool = False
    """Whether all of it is for validation (data.validation_source)."""


class KnownHashes(Protocol):
    """Remembers the hashes of files that have not been touched since."""

    def known_hash(self, location: str, stamp: str) -> tuple[str, int] | None:
        """(sha256, bytes) of the file if it was hashed with this stamp before."""

    def remember_hash(self, location: str, stamp: str, sha256: str, n_bytes: int) -> None:
        """Note the hash of a file."""


def check_sources(settings: DataSettings) -> None:
    """Raise UserError for an entry of `data.source` that names no file, without reading any. URLs are left for later."""
    for entry in (*settings.source, *settings.validation_source):
        if entry.startswith("builtin:"):
            _builtin(entry)
        elif _is_local(entry) and not entry.startswith(DATASET):
            _paths_of(entry)


def find_files(settings: DataSettings, known: KnownHashes | None = None) -> list[SourceFile]:
    """All files that `data.source` and `data.validation_source` name, sorted within each entry, each file once.

    The validation files come first, so that a text which stands in both is held out. Raises UserError.
    """
    found: dict[str, SourceFile] = {}
    for entries, validation in ((settings.validation_source, True), (settings.source, False)):
        for entry in entries:
            for name, location in _locations(entry):
                identity = str(Path(location).resolve()) if _is_local(location) else location
                if identity not in found:
                    found[identity] = _inspect(name, location, validation, known)
    return list(found.values())


@contextmanager
def open_source(location: str) -> Iterator[BinaryIO]:
    """The bytes of a file, URL or built-in corpus, seekable; operating-system errors become a UserError."""
    try:
        with _open(location) as stream:
            yield stream
    except OSError as error:
        raise UserError(
            f"{location} cannot be read ({error.strerror or error}): check its permissions and the disk."
        ) from error


def stamp_of(location: str) -> str:
    """What changes whenever the file is written. Raises UserError where it is gone."""
    if location.startswith("builtin:"):
        return ""
    try:
        if not _is_local(location):
            system, path = _url(location)
            return str(system.ukey(path))
        found = Path(location).stat()
    except OSError as error:
        raise UserError(f"{location} cannot be read ({error.strerror or error}): check that it is still there.") from error
    return f"{found.st_size}-{found.st_mtime_ns}-{found.st_ctime_ns}-{found.st_ino}"


def _is_local(location: str) -> bool:
    return "://" not in location and not location.startswith("builtin:")


def _open(location: str) -> AbstractContextManager[Any]:
    if location.startswith("builtin:"):
        return _builtin(location)
    if _is_local(location):
        return Path(location).open("rb")
    system, path = _url(location)
    return _remote(location, lambda: system.open(path, "rb"))


def _inspect(name: str, location: str, validation: bool, known: KnownHashes | None) -> SourceFile:
    stamp = stamp_of(location)
    before = known.known_hash(location, stamp) if known else None
    sha256, n_bytes = before or _hash(location)
    if known and not before and stamp:
        known.remember_hash(location, stamp, sha256, n_bytes)
    return SourceFile(name, location, n_bytes, sha256, stamp, validation)


def _hash(location: str) -> tuple[str, int]:
    digest, n_bytes = hashlib.sha256(), 0
    with open_source(location) as stream:
        while chunk := stream.read(CHUNK):
            digest.update(chunk)
            n_bytes += len(chunk)
    return digest.hexdigest(), n_bytes


def _locations(entry: str) -> list[tuple[str, str]]:
    """(name in the corpus, location) of each file behind one entry of `data.source`."""
    if entry.startswith("builtin:"):
        return [(entry, entry)]
    if entry.startswith(DATASET):
        return _in_dataset(entry)
    if not _is_local(entry):
        return _in_url(entry)
    return [(name, str(path)) for name, path in _paths_of(entry)]


def _paths_of(entry: str) -> list[tuple[str, Path]]:
    if not entry.strip():
        raise UserError(f"An entry of data.source is empty: give a file, a folder, a glob or {PYTHON_TOPICS}.")
    path = Path(entry).expanduser()
    try:
        if path.is_file():
            return [(path.name, path)]
        if path.is_dir():
            return _in_folder(path)
    except OSError as error:
        raise UserError(f"{entry} cannot be read ({error.strerror}): check its permissions.") from error
    if glob.has_magic(entry):
        return _in_glob(path)
    if path.exists():
        raise UserError(f"{entry} is neither a file nor a folder: give a text file, a folder or a glob.")
    raise UserError(f"{entry} does not exist: check data.source (a file, a folder, a glob, a URL or {PYTHON_TOPICS}).")


def _in_folder(folder: Path) -> list[tuple[str, Path]]:
    def refuse(error: OSError) -> None:
        raise UserError(f"{error.filename} cannot be read ({error.strerror}): check its permissions.") from error

    found: list[tuple[str, Path]] = []
    for parent, folders, names in os.walk(folder, onerror=refuse):
        folders[:] = [name for name in folders if not name.startswith(".")]
        if set(names) >= ARROW_DATASET or "dataset_dict.json" in names:
            names = [name for name in names if name.endswith(".arrow")]
        paths = [Path(parent, name) for name in names if not name.startswith(".")]
        found += [(path.relative_to(folder).as_posix(), path) for path in paths if path.is_file()]
    if not found:
        raise UserError(f"The folder {folder} holds no files (hidden ones are left out): put text files into it.")
    return sorted(found)


def _in_glob(pattern: Path) -> list[tuple[str, Path]]:
    plain = 0
    while not glob.has_magic(pattern.parts[plain]):
        plain += 1
    root = Path(*pattern.parts[:plain])
    paths = [Path(match) for match in glob.glob(str(pattern), recursive=True)]  # noqa: PTH207 (Path.glob finds hidden files)
    found = [(path.relative_to(root).as_posix(), path) for path in paths if path.is_file()]
    if not found:
        raise UserError(f"No file matches {pattern}: check the pattern (** goes into folders, hidden files are left out).")
    return sorted(found)


def _in_url(entry: str) -> list[tuple[str, str]]:
    """Files behind a URL of any file system that fsspec knows: one object, all below a prefix, or a glob."""
    system, path = _url(entry)
    if glob.has_magic(path) and not entry.startswith("http"):
        root = path[: min(path.index(sign) for sign in "*?[" if sign in path)].rpartition("/")[0]
        paths = _remote(entry, lambda: [match for match in system.glob(path) if system.isfile(match)])
    else:
        root = path
        paths = [path] if entry.startswith("http") else _remote(entry, lambda: system.find(path))
    names = {_below(str(found), root.rstrip("/")): system.unstrip_protocol(found) for found in paths}
    shown = {name: url for name, url in names.items() if not any(part.startswith(".") for part in name.split("/"))}
    if not shown:
        raise UserError(f"There is nothing at {entry}: check the address (hidden files are left out).")
    return sorted(shown.items())


def _below(path: str, root: str) -> str:
    return path.removeprefix(root).strip("/") or path.rstrip("/").rpartition("/")[2]


def _url(entry: str) -> tuple[Any, str]:
    import fsspec

    try:
        return fsspec.core.url_to_fs(entry)  # type: ignore[no-any-return]
    except (ImportError, ValueError) as error:
        reason = str(error).split("\n")[0].rstrip(".")
        raise UserError(f"{entry} cannot be opened ({reason}): install what fsspec needs, or copy the files here.") from error


def _remote(entry: str, call: Callable[[], Result]) -> Result:
    """Libraries behind fsspec raise errors of their own for a wrong bucket, key or network."""
    try:
        return call()
    except Exception as error:
        reason = str(error).split("\n")[0].rstrip(".") or type(error).__name__
        raise UserError(f"{entry} cannot be read ({reason}): check the address, your rights and the network.") from error


def _in_dataset(entry: str) -> list[tuple[str, str]]:
    """The .arrow files of `dataset:NAME` or `dataset:NAME:SPLIT`, fetched by Hugging Face's library into its own cache."""
    try:
        import datasets
    except ImportError:
        raise UserError(f"{entry} needs the library datasets: pip install 'gpt2flow[datasets]'.") from None
    name, _, split = entry.removeprefix(DATASET).partition(":")
    if (Path(name) / "state.json").is_file() or (Path(name) / "dataset_dict.json").is_file():
        raise UserError(f"{entry} was saved with save_to_disk: give the folder itself, {Path(name, split)}.")
    if not re.fullmatch(r"\w*", split):
        raise UserError(f"{entry}: {split!r} is no name of a split: give a whole one, such as {DATASET}{name}:train.")
    found = _remote(entry, lambda: datasets.load_dataset(name, split=split or "train"))
    paths = [str(piece["filename"]) for piece in found.cache_files]
    shown = Path(name).name if Path(name).exists() else name  # a path is another one on every machine
    return [(f"{shown}/{Path(path).name}", path) for path in paths]


def _builtin(name: str) -> BinaryIO:
    if name != PYTHON_TOPICS:
        raise UserError(f"{name} is no built-in corpus: there is {PYTHON_TOPICS}.")
    from pydoc_data.topics import topics

    return io.BytesIO(END_OF_TEXT.join(topics[name] for name in sorted(topics)).encode())
