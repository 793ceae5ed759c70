"""Writing a token file: raw rows in Parquet, one data page for each row group."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from gpt2core.store.manifest import ROW_TOKENS

GROUP_ROWS = 1 << 14
"""Rows of a row group, which must be one data page: pyarrow begins another page after 20,000 rows."""


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
