"""Writing the files of a token store: shards of documents and of their tokens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from gpt2core.contracts import DOCUMENTS
from gpt2core.documents import SourceFile
from gpt2core.manifest import ROW_TOKENS, SplitCounts, StoredFile, token_dtype
from gpt2core.splitting import SPLITS, Passage, Split
from gpt2core.token_store import file_sha256
from gpt2core.tokenizer import Tokenizer

SHARD_BYTES = 64 << 20
"""Text in a shard: it ends with the document that reaches this many bytes."""
GROUP_ROWS = 1 << 14
"""Rows of a row group, which must be one data page: pyarrow begins another page after 20,000 rows."""


class StoreWriter:
    """Appends encoded passages to the shards of a store in the making."""

    def __init__(self, folder: Path, tokenizer: Tokenizer) -> None:
        self.folder = folder
        self._end_of_text = tokenizer.end_of_text
        self._dtype = np.dtype(token_dtype(tokenizer.n_vocab))
        self._shard = 0
        self._shard_bytes = 0
        self._streams: dict[Split, TokenShard] = {}
        self._rows: list[dict[str, Any]] = []
        self._doc_id = 0
        self._passage_tokens = 0
        self._counts: dict[Split, SplitCounts] = {split: SplitCounts() for split in SPLITS}
        self._tokens_in: dict[str, int] = {}

    def add(self, passage: Passage, ids: list[int], last: bool) -> None:
        """Append the next ids of a passage; with the last ones it is closed by the end-of-text id and gets its row."""
        stream = self._stream(passage.split)
        stream.append(np.array(ids, dtype=self._dtype))
        self._passage_tokens += len(ids)
        if last:
            stream.append(np.array([self._end_of_text], dtype=self._dtype))
            self._close_document(passage, self._passage_tokens + 1)
            self._passage_tokens = 0

    @property
    def encoded(self) -> tuple[int, int]:
        """Bytes of text in the documents that are complete, and bytes of their tokens."""
        counts = self._counts.values()
        return sum(count.bytes for count in counts), sum(count.tokens for count in counts) * self._dtype.itemsize

    def finish(self, files: list[SourceFile]) -> tuple[dict[Split, SplitCounts], dict[str, StoredFile]]:
        """Complete the last shard, note what the store was made of, and return counts and files for the manifest."""
        if self._rows:
            self._close_shard()
        rows = [{"source": file.source, "n_bytes": file.n_bytes, "sha256": file.sha256} for file in files]
        pq.write_table(pa.Table.from_pylist(rows), self.folder / "sources.parquet", write_page_checksum=True)
        stored = {path.name: self._stored(path) for path in sorted(self.folder.iterdir())}
        return self._counts, stored

    def _stored(self, path: Path) -> StoredFile:
        return StoredFile(bytes=path.stat().st_size, sha256=file_sha256(path), tokens=self._tokens_in.get(path.name))

    def _stream(self, split: Split) -> TokenShard:
        if split not in self._streams:
            self._streams[split] = TokenShard(self.folder / f"tokens-{split}-{self._shard:05d}.parquet", self._dtype)
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
            self._tokens_in[stream.path.name] = stream.close(self._end_of_text)
        table = pa.Table.from_pylist(self._rows, schema=DOCUMENTS)
        pq.write_table(table, self.folder / f"documents-{self._shard:05d}.parquet", write_page_checksum=True)
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
