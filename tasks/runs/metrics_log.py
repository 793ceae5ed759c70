"""The run folder's metrics file: a JSON row a step, appended and flushed, the truth that dashboards are fed from."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

import xxhash

from gpt2core.checkpoints.state import LogMark
from gpt2core.machine.durable import fsync

MetricsRow = Mapping[str, float]
PIECE = 1 << 22  # bytes read at once


class MetricsLog:
    """Rows ordered by their key `step`."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def append(self, rows: Iterable[MetricsRow]) -> None:
        """Add rows and hand them to the operating system at once."""
        with self.path.open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows)

    def rows(self) -> list[dict[str, float]]:
        """All whole rows; a half-written last line, left by a kill, is left out, and so is what follows a damaged line."""
        return self.rows_after(0)[0]

    def rows_after(self, position: int, limit: int = -1) -> tuple[list[dict[str, float]], int]:
        """Whole rows from byte `position` on, at most some `limit` bytes of them, and the position behind the last one."""
        if not self.path.exists():
            return [], position
        rows, read = [], 0
        with self.path.open("rb") as file:
            file.seek(position)
            for row, length in _whole_rows(file):
                rows.append(row)
                read += length
                if 0 <= limit <= read:
                    break
        return rows, position + read

    def cut_back(self, step: int) -> None:
        """Drop rows behind `step`, and everything from a damaged or half-written line on: a resumed run writes them again."""
        if not self.path.exists():
            return
        kept = 0
        with self.path.open("r+b") as file:
            for row, length in _whole_rows(file):
                if row["step"] > step:
                    break
                kept += length
            file.truncate(kept)
            os.fsync(file.fileno())

    def sync(self) -> None:
        """Force the rows to the disk."""
        if self.path.exists():
            fsync(self.path)

    def mark(self, length: int | None = None) -> LogMark:
        """Length in bytes and hash of the log's content, or of its first `length` bytes."""
        digest, left = xxhash.xxh3_128(), length if length is not None else 1 << 62
        read = 0
        if self.path.exists():
            with self.path.open("rb") as file:
                while left > read and (piece := file.read(min(PIECE, left - read))):
                    digest.update(piece)
                    read += len(piece)
        return LogMark(bytes=read, hash=digest.hexdigest())


def _whole_rows(file: BinaryIO) -> Iterator[tuple[dict[str, float], int]]:
    """Rows with their length in bytes, up to the end or to the first line that is no row."""
    for line in file:
        try:
            row = json.loads(line)
            row["step"]
        except (ValueError, KeyError, TypeError):
            return
        if not line.endswith(b"\n"):
            return
        yield row, len(line)
