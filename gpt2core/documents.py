"""From `data.source` to files, and from files to documents of clean text.

Files are read as streams, so memory holds one document at a time. Encoding, splitting and storing are elsewhere.
"""

from __future__ import annotations

import glob
import hashlib
import io
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from configs.errors import UserError
from configs.schema import DataSettings

END_OF_TEXT = "<|endoftext|>"
PYTHON_TOPICS = "builtin:python-topics"
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
CHUNK = 1 << 20
# What people most often point at by mistake; a NUL byte gives away the rest.
KNOWN_BINARY = {
    b"%PDF-": "a PDF",
    b"PK\x03\x04": "a zip archive or an office document",
    b"\x1f\x8b": "a gzip archive",
    b"\x28\xb5\x2f\xfd": "a zstd archive",
    b"BZh91AY&SY": "a bzip2 archive",
    b"\xfd7zXZ\x00": "an xz archive",
    b"PAR1\x15": "a Parquet file",
    b"\x89PNG": "a picture",
    b"\xff\xd8\xff": "a picture",
    b"\xff\xfe": "UTF-16 text",
    b"\xfe\xff": "UTF-16 text",
}


@dataclass(frozen=True)
class SourceFile:
    """One file of the corpus as it was when it was found."""

    source: str
    """Name inside the given folder or glob (posix), so that the same corpus has the same names on any machine."""
    path: Path | None
    """Where it lies; None for a built-in corpus."""
    n_bytes: int
    sha256: str
    """Hash of the content as it lies on disk."""

    @property
    def shown(self) -> str:
        """What an error message calls the file."""
        return self.source if self.path is None else str(self.path)


@dataclass(frozen=True)
class Document:
    """A text that ends with the end-of-text id in the token stream."""

    source: str
    index: int
    """Position within the source, empty documents counted."""
    text: str


def check_sources(settings: DataSettings) -> None:
    """Raise UserError for an entry of `data.source` that names no file, without reading any."""
    for entry in settings.source:
        if entry.startswith("builtin:"):
            _builtin(entry)
        else:
            _paths_of(entry)


def find_files(settings: DataSettings) -> list[SourceFile]:
    """All files that `data.source` names, in sorted order for each entry, each file once; raises UserError."""
    found: dict[Path | str, SourceFile] = {}
    for entry in settings.source:
        if entry.startswith("builtin:"):
            found.setdefault(entry, _inspect(entry, None))
            continue
        for name, path in _paths_of(entry):
            resolved = path.resolve()
            if resolved not in found:
                found[resolved] = _inspect(name, path)
    return list(found.values())


def read_documents(files: Iterable[SourceFile], settings: DataSettings) -> Iterator[Document]:  # noqa: ARG001
    """Every document with text in it, in order; raises UserError where a file cannot be read or nothing holds text."""
    files = list(files)
    nothing = True
    for file in files:
        for document in documents_of(file):
            if is_empty(document):
                continue
            nothing = False
            yield document
    if nothing:
        names = ", ".join(file.shown for file in files[:3])
        raise UserError(f"There is no text in {names}{' ...' if len(files) > 3 else ''}: give a file with text in it.")


def is_empty(document: Document) -> bool:
    """Whether there is nothing to learn from: no text, or white space only."""
    return not document.text.strip()


def documents_of(file: SourceFile) -> Iterator[Document]:
    """The documents of one file, empty ones too: split at <|endoftext|>, line ends normalised to \\n, no byte-order mark.

    Raises UserError if the file is binary, is not UTF-8, cannot be read, or changed since it was found.
    """
    with open_source(file.source, file.path) as stream:
        digest = hashlib.sha256()
        for index, (offset, raw) in enumerate(_split(_chunks(stream, digest))):
            yield Document(file.source, index, _decode(raw, offset, file.shown))
    if digest.hexdigest() != file.sha256:
        raise UserError(f"{file.shown} changed while it was read: run the command again when nothing writes to it.")


@contextmanager
def open_source(name: str, path: Path | None) -> Iterator[BinaryIO]:
    """The bytes of a file or of a built-in corpus; operating-system errors become a UserError."""
    try:
        with _builtin(name) if path is None else path.open("rb") as stream:
            yield stream
    except OSError as error:
        raise UserError(f"{path or name} cannot be read ({error.strerror}): check its permissions and the disk.") from error


def _paths_of(entry: str) -> list[tuple[str, Path]]:
    """(name in the corpus, path) of each file behind one entry of `data.source`."""
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
    raise UserError(f"{entry} does not exist: check data.source (a file, a folder, a glob or {PYTHON_TOPICS}).")


def _in_folder(folder: Path) -> list[tuple[str, Path]]:
    def refuse(error: OSError) -> None:
        raise UserError(f"{error.filename} cannot be read ({error.strerror}): check its permissions.") from error

    found: list[tuple[str, Path]] = []
    for parent, folders, names in os.walk(folder, onerror=refuse):
        folders[:] = [name for name in folders if not name.startswith(".")]
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


def _inspect(name: str, path: Path | None) -> SourceFile:
    """Hash the content and refuse what is plainly no text, before any work is done on it."""
    digest, n_bytes = hashlib.sha256(), 0
    with open_source(name, path) as stream:
        for chunk in _chunks(stream, digest):
            _refuse_binary(chunk, n_bytes, str(path or name))
            n_bytes += len(chunk)
    return SourceFile(name, path, n_bytes, digest.hexdigest())


def _refuse_binary(chunk: bytes, offset: int, shown: str) -> None:
    remedy = "give text files in UTF-8, for a folder as a glob such as folder/**/*.txt"
    kind = next((kind for magic, kind in KNOWN_BINARY.items() if offset == 0 and chunk.startswith(magic)), None)
    if kind:
        raise UserError(f"{shown} is {kind} and not UTF-8 text: {remedy}.")
    if (at := chunk.find(b"\0")) >= 0:
        raise UserError(f"{shown} is a binary file (NUL at byte {offset + at}): {remedy}.")


def _chunks(stream: BinaryIO, digest: hashlib._Hash) -> Iterator[bytes]:
    while chunk := stream.read(CHUNK):
        digest.update(chunk)
        yield chunk


def _split(chunks: Iterable[bytes]) -> Iterator[tuple[int, bytes]]:
    """(byte offset, bytes) of each document. UTF-8 synchronises itself, so bytes can be searched before they are decoded."""
    separator = END_OF_TEXT.encode()
    held, start, searched = bytearray(), 0, 0
    for chunk in chunks:
        held += chunk
        while (at := held.find(separator, searched)) >= 0:
            yield start, bytes(held[:at])
            del held[: at + len(separator)]
            start, searched = start + at + len(separator), 0
        searched = max(0, len(held) - len(separator) + 1)
    yield start, bytes(held)


def _decode(raw: bytes, offset: int, shown: str) -> str:
    if offset == 0 and raw.startswith(BYTE_ORDER_MARK):
        raw, offset = raw[len(BYTE_ORDER_MARK) :], len(BYTE_ORDER_MARK)
    try:
        return raw.decode("utf-8").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        at = offset + error.start
        raise UserError(
            f"{shown} is not UTF-8: byte {at} is 0x{raw[error.start]:02x} ({error.reason}). Convert the file to UTF-8 first."
        ) from None


def _builtin(name: str) -> BinaryIO:
    if name != PYTHON_TOPICS:
        raise UserError(f"{name} is no built-in corpus: there is {PYTHON_TOPICS}.")
    from pydoc_data.topics import topics

    return io.BytesIO(END_OF_TEXT.join(topics[name] for name in sorted(topics)).encode())
