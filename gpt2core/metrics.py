"""The run folder's metrics file: a JSON row a step, appended and flushed, the truth that dashboards are fed from."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

Row = Mapping[str, float]


class MetricsLog:
    """Rows ordered by their key `step`."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def append(self, rows: Iterable[Row]) -> None:
        """Add rows and hand them to the operating system at once."""
        with self.path.open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows)

    def rows(self) -> list[dict[str, float]]:
        """All whole rows; a half-written last line, left by a kill, is left out."""
        if not self.path.exists():
            return []
        text = self.path.read_text(encoding="utf-8")
        return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]

    def cut_back(self, step: int) -> None:
        """Drop rows behind `step`: a resumed run writes them again."""
        kept = [row for row in self.rows() if row["step"] <= step]
        temporary = self.path.with_name(self.path.name + ".tmp")
        with temporary.open("w", encoding="utf-8") as file:
            file.writelines(json.dumps(row) + "\n" for row in kept)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(self.path)
