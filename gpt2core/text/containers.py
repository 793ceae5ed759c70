"""Opening what text comes wrapped in: gzip, zstd, bzip2, xz, zip and tar. All as streams, nothing is unpacked."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import PurePosixPath
from typing import BinaryIO

import pyarrow as pa

from configs.errors import UserError

GIBIBYTE = 1 << 30
COMPRESSIONS = (".gz", ".zst", ".bz2", ".xz")
TARS = {".tgz": ".gz", ".tbz2": ".bz2", ".txz": ".xz", ".tzst": ".zst"}
# What people most often point at by mistake, by the first bytes; the right suffix tells how it is to be read.
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
}
UTF_16 = (b"\xff\xfe", b"\xfe\xff")
DAMAGE = (
    OSError,
    EOFError,
    zlib.error,
    lzma.LZMAError,
    tarfile.TarError,
    zipfile.BadZipFile,
    RuntimeError,
    ValueError,
    LookupError,
    MemoryError,
    struct.error,
)


class Allowance:
    """How many bytes one file of the corpus may still expand to."""

    def __init__(self, shown: str, gibibytes: int) -> None:
        self._shown = shown
        self._gibibytes = gibibytes
        self._left = gibibytes * GIBIBYTE

    def spend(self, n_bytes: int) -> None:
        """Raises UserError when nothing is left."""
        self._left -= n_bytes
        if self._left < 0:
            raise UserError(
                f"{self._shown} expands to more than {self._gibibytes:,} GiB: raise data.expanded_limit if it is meant to."
            )


class _Metered(io.RawIOBase):
    """A stream whose bytes count against the allowance."""

    def __init__(self, stream: BinaryIO, allowance: Allowance) -> None:
        self._stream = stream
        self._allowance = allowance

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        found = self._stream.read(len(buffer))
        self._allowance.spend(len(found))
        buffer[: len(found)] = found
        return len(found)


def plain_name(name: str) -> str:
    """The name without the suffix of a compression: a.csv.gz is a.csv."""
    lower = name.lower()
    for suffix in TARS:
        if lower.endswith(suffix):
            return name[: -len(suffix)] + ".tar"
    return name[: -len(PurePosixPath(name).suffix)] if lower.endswith(COMPRESSIONS) else name


def members(name: str, stream: BinaryIO, shown: str, allowance: Allowance) -> Iterator[tuple[str, BinaryIO]]:
    """(name, content) of each text inside a file: itself, or the members of an archive. Hidden members are left out.

    A content is read before the next one is asked for. Raises UserError for damage, traversal, encryption and nested archives.
    """
    with named_damage(shown):
        inner, content = plain_name(name), _expanded(name, stream, allowance)
        if inner.lower().endswith(".zip"):
            yield from _in_zip(content, shown, allowance)
        elif inner.lower().endswith(".tar"):
            yield from _in_tar(content, shown, allowance)
        else:
            yield inner, content


@contextmanager
def named_damage(shown: str) -> Iterator[None]:
    """Turn what libraries raise for a damaged container into a sentence."""
    try:
        yield
    except UserError:
        raise
    except DAMAGE as error:
        if getattr(error, "errno", None):  # the disk or the network, and not what the file holds
            raise
        reason = str(error).split("\n")[0].rstrip(".") or type(error).__name__
        raise UserError(f"{shown} cannot be unpacked ({reason}): check that it is complete and what its name says.") from None


def refuse_binary(head: bytes, shown: str, encoding: str) -> None:
    """Raise UserError where the first bytes belong to something that is no text."""
    kind = next((kind for magic, kind in KNOWN_BINARY.items() if head.startswith(magic)), None)
    if kind is None and encoding == "utf-8" and head.startswith(UTF_16):
        raise UserError(f"{shown} is UTF-16 text and not UTF-8: set data.encoding to utf-16.")
    if kind:
        raise UserError(f"{shown} is {kind} and not UTF-8 text: give it the name that says so, or text files instead.")


def _expanded(name: str, stream: BinaryIO, allowance: Allowance) -> BinaryIO:
    lower = name.lower()
    suffix = next((TARS[end] for end in TARS if lower.endswith(end)), PurePosixPath(lower).suffix)
    if suffix == ".gz":
        return _metered(gzip.GzipFile(fileobj=stream), allowance)
    if suffix == ".bz2":
        return _metered(bz2.BZ2File(stream), allowance)
    if suffix == ".xz":
        return _metered(lzma.LZMAFile(stream), allowance)
    if suffix == ".zst":
        return _metered(pa.CompressedInputStream(pa.PythonFile(stream, mode="r"), "zstd"), allowance)
    return stream


def _metered(stream: object, allowance: Allowance) -> BinaryIO:
    return io.BufferedReader(_Metered(stream, allowance), 1 << 18)  # type: ignore[arg-type]


def _in_zip(stream: BinaryIO, shown: str, allowance: Allowance) -> Iterator[tuple[str, BinaryIO]]:
    with zipfile.ZipFile(stream) as archive:
        for entry in sorted(archive.infolist(), key=lambda entry: entry.filename):  # two members may have one name
            name = entry.filename
            if not name.endswith("/") and _is_wanted(name, shown):
                with archive.open(entry) as content:
                    yield plain_name(name), _member(name, _metered(content, allowance), shown, allowance)


def _in_tar(stream: BinaryIO, shown: str, allowance: Allowance) -> Iterator[tuple[str, BinaryIO]]:
    with tarfile.open(fileobj=stream, mode="r|") as archive:
        for entry in archive:
            if entry.isfile() and _is_wanted(entry.name, shown) and (content := archive.extractfile(entry)):
                yield plain_name(entry.name), _member(entry.name, _metered(content, allowance), shown, allowance)


def _member(name: str, content: BinaryIO, shown: str, allowance: Allowance) -> BinaryIO:
    if plain_name(name).lower().endswith((".zip", ".tar")):
        raise UserError(f"{shown} holds the archive {name}: unpack the outer one first.")
    return _expanded(name, content, allowance)


def _is_wanted(name: str, shown: str) -> bool:
    parts = PurePosixPath(name.replace("\\", "/")).parts
    if name.startswith(("/", "\\")) or ".." in parts:
        raise UserError(f"{shown} holds {name!r}, which points outside of it: such an archive is not read.")
    return not any(part.startswith(".") and part != "." for part in parts) and "__MACOSX" not in parts
