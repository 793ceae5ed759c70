"""Encoding one shard of a plan: its token files and, written last, the lengths of its documents.

A shard that has its lengths is finished and is not encoded again, whenever the work was interrupted.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple
from uuid import uuid4

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from configs.errors import UserError
from configs.schema import DataSettings
from gpt2core.machine.durable import fsync
from gpt2core.store.manifest import StoredFile, token_dtype
from gpt2core.store.reuse import KnownTokens
from gpt2core.store.scan import ids_to_bytes
from gpt2core.store.shard_plan import plan_of, plan_path
from gpt2core.store.token_store import file_sha256
from gpt2core.store.writer import TokenShard
from gpt2core.text.documents import pieces_of
from gpt2core.text.pieces import Piece
from gpt2core.text.sources import SourceFile
from gpt2core.text.tokenizer import Tokenizer

BATCH_CHARACTERS = 1 << 21
"""Text encoded at once; its pieces are shared out among threads."""
BATCH_PIECES = 1 << 14
Advance = Callable[[int], None]


class DocumentRow(NamedTuple):
    """A passage of the plan."""

    file: int
    number: int
    source: str
    start: int
    end: int
    n_bytes: int
    sha256: str
    split: str


class ShardPart(NamedTuple):
    """The next text or ids of a passage."""

    row: int
    text: str
    ids: np.ndarray[Any, Any] | None
    last: bool


class ShardEncoder:
    """Encodes shards of one plan; files go on being read where the shard before ended."""

    def __init__(
        self, folder: Path, files: list[SourceFile], settings: DataSettings, tokenizer: Tokenizer, known: KnownTokens
    ) -> None:
        self._folder = folder
        self._files = files
        self._settings = settings
        self._tokenizer = tokenizer
        self._known = known
        self._open: tuple[int, Iterator[Piece]] = (-1, iter(()))
        self._held: Piece | None = None

    def encode(self, shard: int, advance: Advance | None = None) -> None:
        """Encode a shard unless it is finished. `advance` hears the bytes of text done. Raises UserError."""
        rows = [DocumentRow(**row) for row in plan_of(self._folder, shard).to_pylist()]
        if finished(self._folder, shard):
            if advance:
                advance(sum(row.n_bytes for row in rows))
            return
        writer = _ShardWriter(self._folder, shard, rows, self._tokenizer)
        parts = self._parts(rows)
        for batch in _batches(parts if self._tokenizer.splits_at_spaces else _whole(parts)):
            writer.add(batch)
            if advance:
                advance(writer.take_done())
        writer.finish()

    def _parts(self, rows: list[DocumentRow]) -> Iterator[ShardPart]:
        """The parts of all passages in the order of the rows."""
        number = 0
        while number < len(rows):
            if (ids := self._known.find(rows[number].sha256, rows[number].n_bytes, rows[number].source)) is not None:
                yield ShardPart(number, "", ids, last=True)
                number += 1
                continue
            sides = 2 if number + 1 < len(rows) and rows[number + 1][:2] == rows[number][:2] else 1
            yield from self._read(rows, range(number, number + sides))
            number += sides

    def _read(self, rows: list[DocumentRow], sides: range) -> Iterator[ShardPart]:
        """One document or both sides of a cut one. Raises UserError if the text is no longer what it was."""
        document = rows[sides.start]
        digests = {side: hashlib.sha256() for side in sides}
        place = 0
        for piece in self._pieces(document.file, document.number):
            length = len(piece.text) if piece.ids is None else len(piece.ids)
            for side in sides:
                row = rows[side]
                low, high = max(row.start, place) - place, min(row.end, place + length) - place
                last = place < row.end <= place + length or (piece.last and row.end <= place and row.end == row.start)
                if high <= low and not last:
                    continue
                text = piece.text[low:high]
                ids = None if piece.ids is None else piece.ids[low:high]
                raw = text.encode() if ids is None else ids_to_bytes(ids, self._tokenizer, row.source)
                digests[side].update(raw)
                if last and digests[side].hexdigest() != row.sha256:
                    break
                yield ShardPart(side, text, ids, last)
            place += length
        if any(digests[side].hexdigest() != rows[side].sha256 for side in sides):
            name = self._files[document.file].location
            raise UserError(f"{name} changed while it was read: run the command again when nothing writes to it.")

    def _pieces(self, file: int, document: int) -> Iterator[Piece]:
        """The pieces of one document; what lies before it in its file is read and left out."""
        if self._open[0] != file or self._held is None or self._held.number > document:
            self._open = (file, pieces_of(self._files[file], self._settings))
            self._held = None
        stream = self._open[1]
        piece = self._held or next(stream, None)
        while piece is not None and piece.number < document:
            piece = next(stream, None)
        while piece is not None and piece.number == document:
            yield piece
            self._held = piece = next(stream, None)


class _ShardWriter:
    """Token streams of one shard, and the length of each passage."""

    def __init__(self, folder: Path, shard: int, rows: list[DocumentRow], tokenizer: Tokenizer) -> None:
        self._folder = folder
        self._shard = shard
        self._rows = rows
        self._tokenizer = tokenizer
        self._dtype = np.dtype(token_dtype(tokenizer.n_vocab))
        self._end = np.array([tokenizer.end_of_text], dtype=self._dtype)
        self._lengths = np.zeros(len(rows), dtype=np.int64)
        self._streams: dict[str, TokenShard] = {}
        # A worker that is taken for lost may still write while another one does its work.
        self._unfinished = f".{uuid4().hex}.tmp"
        self._done = 0

    def add(self, parts: list[ShardPart]) -> None:
        """Encode the texts among the parts and append all of them in order."""
        texts = [part.text for part in parts if part.ids is None]
        encoded = iter(self._tokenizer.encode_ordinary(texts))
        for part in parts:
            row = self._rows[part.row]
            if part.ids is None:
                ids = next(encoded).astype(self._dtype)
                self._done += len(part.text) if part.text.isascii() else len(part.text.encode())
            else:
                self._refuse_ids(part.ids)
                ids = part.ids.astype(self._dtype, copy=False)
                self._done += row.n_bytes if part.last else 0
            self._append(row.split, part.row, ids)
            if part.last:
                self._append(row.split, part.row, self._end)

    def take_done(self) -> int:
        """Bytes of text since this was asked last."""
        done, self._done = self._done, 0
        return done

    def finish(self) -> None:
        """Complete and fsync the token files, then write the lengths."""
        stored = {}
        for split, stream in self._streams.items():
            tokens = stream.close(self._tokenizer.end_of_text)
            fsync(stream.path)
            path = self._tokens_path(split)
            size, sha256 = stream.path.stat().st_size, file_sha256(stream.path)
            stored[path.name] = StoredFile(bytes=size, sha256=sha256, tokens=tokens).model_dump()
            stream.path.replace(path)
        table = plan_of(self._folder, self._shard).append_column("n_tokens", pa.array(self._lengths))
        table = table.replace_schema_metadata({"files": json.dumps(stored), "plan": _plan_hash(self._folder, self._shard)})
        path = lengths_path(self._folder, self._shard)
        unfinished = path.with_suffix(self._unfinished)
        pq.write_table(table, unfinished)
        fsync(unfinished)
        unfinished.replace(path)
        fsync(self._folder)

    def _tokens_path(self, split: str) -> Path:
        return self._folder / f"tokens-{split}-{self._shard:05d}.parquet"

    def _append(self, split: str, row: int, ids: np.ndarray[Any, Any]) -> None:
        if split not in self._streams:
            self._streams[split] = TokenShard(self._tokens_path(split).with_suffix(self._unfinished), self._dtype)
        self._streams[split].append(ids)
        self._lengths[row] += len(ids)

    def _refuse_ids(self, ids: np.ndarray[Any, Any]) -> None:
        highest = int(ids.max(initial=0))
        if highest >= self._tokenizer.n_vocab:
            raise UserError(f"The source holds the id {highest:,}, but the vocabulary has {self._tokenizer.n_vocab:,} entries.")


def lengths_path(folder: Path, shard: int) -> Path:
    """The plan of a finished shard with the number of tokens of each passage."""
    return folder / f"lengths-{shard:05d}.parquet"


def finished(folder: Path, shard: int) -> tuple[pa.Table, dict[str, StoredFile]] | None:
    """Lengths and token files of a shard that was finished for this very plan and is undamaged, or None."""
    with suppress(OSError, ValueError, KeyError, TypeError, pa.ArrowException):
        table = pq.read_table(lengths_path(folder, shard))
        metadata = table.schema.metadata
        files = {name: StoredFile(**values) for name, values in json.loads(metadata[b"files"]).items()}
        if metadata[b"plan"].decode() != _plan_hash(folder, shard):
            return None
        if all(file_sha256(folder / name) == stored.sha256 for name, stored in files.items()):
            return table, files
    return None


def _plan_hash(folder: Path, shard: int) -> str:
    return file_sha256(plan_path(folder, shard))


def _whole(parts: Iterator[ShardPart]) -> Iterator[ShardPart]:
    """Passages in one part each, for a pre-tokenizer whose words may reach across the ends of pieces."""
    held: list[str] = []
    for part in parts:
        if part.ids is not None:
            yield part
            continue
        held.append(part.text)
        if part.last:
            yield part._replace(text="".join(held))
            held = []


def _batches(parts: Iterator[ShardPart]) -> Iterator[list[ShardPart]]:
    batch: list[ShardPart] = []
    characters = 0
    for part in parts:
        batch.append(part)
        characters += len(part.text) if part.ids is None else len(part.ids)
        if characters >= BATCH_CHARACTERS or len(batch) >= BATCH_PIECES:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch
