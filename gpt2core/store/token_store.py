"""Reading a token store: Parquet shards as one memory-mapped stream of token ids for each split.

A shard has a single REQUIRED fixed_size_binary column, plain, uncompressed, one data page for each row group. The page is
a short header and then raw little-endian tokens, so a memory map of the file is a token array. Writing is in `encoding`.
"""

from __future__ import annotations

import bisect
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from configs.errors import UserError
from gpt2core.store.manifest import Manifest, read_manifest
from gpt2core.store.splitting import SPLITS, Split

LONGEST_HEADER = 64


class TokenStream:
    """The tokens of one split, documents joined by end-of-text ids, across all shards."""

    def __init__(self, segments: list[np.ndarray[Any, Any]]) -> None:
        self._segments = segments
        self._ends: list[int] = np.cumsum([len(segment) for segment in segments], dtype=np.int64).tolist()
        self._starts = [end - len(segment) for end, segment in zip(self._ends, segments, strict=True)]
        self._length = self._ends[-1] if self._ends else 0

    def __len__(self) -> int:
        return self._length

    def read(self, start: int, length: int, out: np.ndarray[Any, Any]) -> None:
        """Copy tokens [start, start + length) into `out` [length] of any integer type; IndexError beyond the end."""
        done = 0
        for piece in self.pieces(start, length):
            out[done : done + len(piece)] = piece
            done += len(piece)

    def pieces(self, start: int, length: int) -> list[np.ndarray[Any, Any]]:
        """Tokens [start, start + length) where they lie, an array for each segment; IndexError beyond the end."""
        if start < 0 or length < 0 or start + length > self._length:
            raise IndexError(f"tokens {start} to {start + length} of a stream of {self._length}")
        number, pieces = bisect.bisect_right(self._ends, start), []
        while length:
            first = start - self._starts[number]
            pieces.append(self._segments[number][first : first + length])
            start, length, number = start + len(pieces[-1]), length - len(pieces[-1]), number + 1
        return pieces

    def windows(self, starts: Sequence[int], length: int) -> np.ndarray[Any, Any]:
        """Tokens [starts, length] as they are stored, from each start on; behind the end the stream goes on from its beginning.

        All rows are copied by one call, since a NumPy call for each takes longer than the copying.
        """
        pieces = []
        for start in starts:
            number = bisect.bisect_right(self._ends, start)
            first = start - self._starts[number]
            pieces.append(self._segments[number][first : first + length])
            left = start + length - self._ends[number]
            while left > 0:  # the row goes over the end of a segment
                number = (number + 1) % len(self._segments)
                pieces.append(self._segments[number][:left])
                left -= len(pieces[-1])
        return np.concatenate(pieces).reshape(len(starts), length)


class TokenStore:
    """A published token store, opened."""

    def __init__(self, path: Path, manifest: Manifest) -> None:
        self.path = path
        self.manifest = manifest
        self._streams = {split: TokenStream(_segments(path, split, manifest)) for split in SPLITS}

    @property
    def hash(self) -> str:
        """Name of the store: hash of the files, the vocabulary and the options it was made of."""
        return self.manifest.hash

    def stream(self, split: Split) -> TokenStream:
        """All tokens of "train" or "validation"."""
        return self._streams[split]

    def documents(self) -> pa.Table:
        """A row a document (or side of a cut one): doc_id, source, sha256, n_bytes, n_tokens, token_offset, split."""
        return pa.concat_tables([pq.read_table(self.path / name) for name in shard_names(self.manifest, "documents")])


def open_store(path: str | Path, verify: bool = True) -> TokenStore:
    """Open a store for reading. `verify` reads every file once and compares its hash; sizes are always compared.

    Raises UserError that names the damaged file.
    """
    path = Path(path)
    manifest = read_manifest(path)
    for name, expected in manifest.files.items():
        file = path / name
        remedy = f"delete the folder {path} and encode again"
        if not file.is_file():
            raise UserError(f"{file} is missing from the token store: {remedy}.")
        if file.stat().st_size != expected.bytes or (verify and file_sha256(file) != expected.sha256):
            raise UserError(f"{file} is damaged, its content differs from when it was written: {remedy}.")
    return TokenStore(path, manifest)


def require_block(store: TokenStore, n_ctx: int) -> None:
    """Raise UserError unless both splits hold at least one window of n_ctx tokens and the token after it."""
    for split in SPLITS:
        tokens = len(store.stream(split))
        if tokens < n_ctx + 1:
            raise UserError(
                f"The {split} text has {tokens:,} tokens but a block of model.n_ctx {n_ctx:,} needs {n_ctx + 1:,}: "
                f"give more text, {'raise data.validation, ' if split == 'validation' else ''}or lower model.n_ctx."
            )


def shard_names(manifest: Manifest, kind: str) -> list[str]:
    """Files of the store that start with `kind`, in stream order."""
    return sorted(name for name in manifest.files if name.startswith(f"{kind}-"))


def file_sha256(path: Path) -> str:
    """Hash of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _segments(path: Path, split: Split, manifest: Manifest) -> list[np.ndarray[Any, Any]]:
    """Memory-mapped token arrays, one for each row group."""
    segments = []
    for name in shard_names(manifest, f"tokens-{split}"):
        left = manifest.files[name].tokens or 0
        for pages in token_pages(path / name, np.dtype(manifest.dtype), manifest.row_tokens):
            segments.append(pages[:left])
            left -= len(pages[:left])
    return segments


def token_pages(file: Path, dtype: np.dtype[Any], row_tokens: int) -> list[np.ndarray[Any, Any]]:
    """The data page of each row group as a memory-mapped array of token ids, padding included.

    Raises UserError where a row group is not a single plain page.
    """
    metadata = pq.read_metadata(file)
    raw = np.asarray(np.memmap(file, mode="r"))  # slices of np.memmap itself cost far more than those of an array
    pages = []
    for number in range(metadata.num_row_groups):
        group = metadata.row_group(number)
        column = group.column(0)
        n_bytes = group.num_rows * row_tokens * dtype.itemsize
        header = column.total_compressed_size - n_bytes
        if not 0 < header < LONGEST_HEADER:
            raise UserError(f"{file} is no token shard (page header of {header} bytes): delete its folder and encode again.")
        start = column.data_page_offset + header
        pages.append(raw[start : start + n_bytes].view(dtype))
    return pages
