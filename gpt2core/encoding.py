"""From documents to a published token store.

The corpus is read twice: once to learn sizes and hashes, from which the split follows, and once to encode. Memory holds one
document, one batch of encoded text and one row group for each split, whatever the corpus's size.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from configs.errors import UserError
from configs.schema import DataSettings
from gpt2core.contracts import DOCUMENTS, check_store
from gpt2core.documents import Document, SourceFile, documents_of
from gpt2core.durable import publish_folder
from gpt2core.manifest import (
    ROW_TOKENS,
    SCHEMA_VERSION,
    Manifest,
    SplitCounts,
    StoredFile,
    store_hash,
    token_dtype,
    write_manifest,
)
from gpt2core.splitting import SPLITS, Passage, Split, Survey, place_documents, survey_documents
from gpt2core.token_store import file_sha256, open_store
from gpt2core.tokenizer import Tokenizer

SHARD_BYTES = 64 << 20
"""Text in a shard: it ends with the document that reaches this many bytes."""
GROUP_ROWS = (8 << 20) // ROW_TOKENS
"""Rows of a row group, which is one data page."""
BATCH_CHARACTERS = 1 << 20
"""Text encoded at once; its pieces are shared out among threads."""

Progress = Callable[[int, int], None]


def encode_store(
    files: list[SourceFile],
    settings: DataSettings,
    tokenizer: Tokenizer,
    stores_dir: Path,
    progress: Progress | None = None,
) -> Path:
    """Publish `<stores_dir>/<hash>` and return its path; a store that is already there and whole is returned at once.

    `progress` hears (bytes of text done, bytes in all). Raises UserError for unreadable or missing text, for a full disk and
    for a store that breaks its contract; nothing is left behind then.
    """
    options = {"validation": settings.validation}
    name = store_hash([(file.source, file.sha256) for file in files], tokenizer.sha256, options)
    target = stores_dir / name
    stores_dir.mkdir(parents=True, exist_ok=True)
    with _alone_in(stores_dir):
        if not _is_whole(target):
            shutil.rmtree(target, ignore_errors=True)
            survey = survey_documents(_documents(files), settings.validation)
            with publish_folder(target) as folder:
                rule = survey.rule(settings.validation)
                writer = StoreWriter(folder, tokenizer)
                _encode(place_documents(_documents(files), rule), tokenizer, writer, _reporter(progress, survey))
                _write_sources(folder, files)
                manifest = Manifest(
                    schema_version=SCHEMA_VERSION,
                    hash=name,
                    tokenizer_sha256=tokenizer.sha256,
                    n_vocab=tokenizer.n_vocab,
                    end_of_text=tokenizer.end_of_text,
                    row_tokens=ROW_TOKENS,
                    options=options,
                    cut_above=rule.cut_above,
                    dropped={"empty": survey.empty, "duplicate": survey.duplicates},
                    counts=writer.finish(),
                    files=_stored_files(folder, writer.tokens_in),
                )
                check_store(folder, manifest)
                write_manifest(folder, manifest)
    return target


class StoreWriter:
    """Appends encoded passages to the shards of a store in the making."""

    def __init__(self, folder: Path, tokenizer: Tokenizer) -> None:
        self._folder = folder
        self._end_of_text = tokenizer.end_of_text
        self._dtype = np.dtype(token_dtype(tokenizer.n_vocab))
        self._shard = 0
        self._shard_bytes = 0
        self._streams: dict[Split, TokenShard] = {}
        self._rows: list[dict[str, Any]] = []
        self._doc_id = 0
        self._passage_tokens = 0
        self._counts: dict[Split, SplitCounts] = {split: SplitCounts() for split in SPLITS}
        self.tokens_in: dict[str, int] = {}
        """Tokens before the padding, by the name of the shard."""

    def add(self, passage: Passage, ids: list[int], last: bool) -> None:
        """Append the next ids of a passage; with the last ones it is closed by the end-of-text id and gets its row."""
        stream = self._stream(passage.split)
        stream.append(np.array(ids, dtype=self._dtype))
        self._passage_tokens += len(ids)
        if last:
            stream.append(np.array([self._end_of_text], dtype=self._dtype))
            self._close_document(passage, self._passage_tokens + 1)
            self._passage_tokens = 0

    def finish(self) -> dict[Split, SplitCounts]:
        """Complete the last shard."""
        if self._rows:
            self._close_shard()
        return self._counts

    def _stream(self, split: Split) -> TokenShard:
        if split not in self._streams:
            self._streams[split] = TokenShard(self._folder / f"tokens-{split}-{self._shard:05d}.parquet", self._dtype)
        return self._streams[split]

    def _close_document(self, passage: Passage, n_tokens: int) -> None:
        before = self._counts[passage.split]
        values = (self._doc_id, passage.source, passage.sha256, passage.n_bytes, n_tokens, before.tokens, passage.split)
        self._rows.append(dict(zip(DOCUMENTS.names, values, strict=True)))
        self._counts[passage.split] = SplitCounts(
            documents=before.documents + 1, bytes=before.bytes + passage.n_bytes, tokens=before.tokens + n_tokens
        )
        self._doc_id += 1
        self._shard_bytes += passage.n_bytes
        if self._shard_bytes >= SHARD_BYTES:
            self._close_shard()

    def _close_shard(self) -> None:
        for stream in self._streams.values():
            self.tokens_in[stream.path.name] = stream.close(self._end_of_text)
        table = pa.Table.from_pylist(self._rows, schema=DOCUMENTS)
        pq.write_table(table, self._folder / f"documents-{self._shard:05d}.parquet", write_page_checksum=True)
        self._shard, self._shard_bytes, self._streams, self._rows = self._shard + 1, 0, {}, []


class TokenShard:
    """One token shard in the making: raw rows in a Parquet file, one data page for each row group."""

    def __init__(self, path: Path, dtype: np.dtype[Any]) -> None:
        self.path = path
        self._row_type = pa.binary(ROW_TOKENS * dtype.itemsize)
        schema = pa.schema([pa.field("tokens", self._row_type, nullable=False)])
        self._file = pq.ParquetWriter(
            path,
            schema,
            use_dictionary=False,
            compression="none",
            write_statistics=False,
            data_page_size=1 << 30,
            write_page_checksum=True,
        )
        self._group = np.empty(GROUP_ROWS * ROW_TOKENS, dtype=dtype)
        self._filled = 0
        self._tokens = 0

    def append(self, ids: np.ndarray[Any, Any]) -> None:
        """Add ids to the stream, writing each row group as soon as it is full."""
        self._tokens += len(ids)
        while len(ids):
            piece = ids[: len(self._group) - self._filled]
            self._group[self._filled : self._filled + len(piece)] = piece
            self._filled += len(piece)
            ids = ids[len(piece) :]
            if self._filled == len(self._group):
                self._write_group()

    def close(self, padding: int) -> int:
        """Fill the last row with `padding`, complete the file and return the number of tokens before it."""
        used = -(-self._filled // ROW_TOKENS) * ROW_TOKENS
        self._group[self._filled : used] = padding
        self._filled = used
        if used:
            self._write_group()
        self._file.close()
        return self._tokens

    def _write_group(self) -> None:
        rows = self._filled // ROW_TOKENS
        column = pa.FixedSizeBinaryArray.from_buffers(self._row_type, rows, [None, pa.py_buffer(self._group)])
        self._file.write_table(pa.Table.from_arrays([column], schema=self._file.schema), row_group_size=rows)
        self._filled = 0


@dataclass(frozen=True)
class _Piece:
    passage: Passage
    text: str
    last: bool


def _encode(passages: Iterable[Passage], tokenizer: Tokenizer, writer: StoreWriter, report: Callable[[int], None]) -> None:
    done = 0
    for batch in _batches(passages, tokenizer):
        found = tokenizer.encode_batch([piece.text for piece in batch], special=False)
        for piece, ids in zip(batch, found, strict=True):
            writer.add(piece.passage, ids, piece.last)
            done += len(piece.text.encode())
        report(done)


def _batches(passages: Iterable[Passage], tokenizer: Tokenizer) -> Iterator[list[_Piece]]:
    batch: list[_Piece] = []
    characters = 0
    for piece in chain.from_iterable(_pieces(passage, tokenizer) for passage in passages):
        batch.append(piece)
        characters += len(piece.text)
        if characters >= BATCH_CHARACTERS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch


def _pieces(passage: Passage, tokenizer: Tokenizer) -> Iterator[_Piece]:
    """Long texts in pieces, so that one long document keeps all threads busy and memory small."""
    held: str | None = None
    for text in tokenizer.pieces(passage.text):
        if held is not None:
            yield _Piece(passage, held, last=False)
        held = text
    yield _Piece(passage, held or "", last=True)


def _documents(files: Iterable[SourceFile]) -> Iterator[Document]:
    return chain.from_iterable(documents_of(file) for file in files)


def _reporter(progress: Progress | None, survey: Survey) -> Callable[[int], None]:
    total = survey.n_bytes
    return lambda done: progress(done, total) if progress else None


def _write_sources(folder: Path, files: list[SourceFile]) -> None:
    """What the store was made of, file by file."""
    rows = [{"source": file.source, "n_bytes": file.n_bytes, "sha256": file.sha256} for file in files]
    pq.write_table(pa.Table.from_pylist(rows), folder / "sources.parquet", write_page_checksum=True)


def _stored_files(folder: Path, tokens_in: dict[str, int]) -> dict[str, StoredFile]:
    return {
        path.name: StoredFile(bytes=path.stat().st_size, sha256=file_sha256(path), tokens=tokens_in.get(path.name))
        for path in sorted(folder.iterdir())
    }


def _is_whole(store: Path) -> bool:
    if not store.is_dir():
        return False
    try:
        open_store(store)
    except UserError:
        return False
    return True


@contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Hold the folder's lock: two runs of one corpus encode it once. The lock goes with the process, however that ends."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
