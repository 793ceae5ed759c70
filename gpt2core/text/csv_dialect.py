"""How the rows of a CSV file are written: what stands between the cells, and how a quote inside a cell is marked.

The dialect is the one by which most rows have as many cells as the head. On 22 files (`benchmarks/LOG.md`) this finds what
`csv.Sniffer` and clevercsv miss: text that is full of spaces and commas.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable
from dataclasses import dataclass
from io import StringIO
from itertools import islice
from typing import Any

DELIMITERS = ",;\t|"
NAMES = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}
ROWS = 1000


@dataclass(frozen=True)
class Dialect:
    """Cells stand between delimiters; a quote inside a quoted cell is doubled, or has a backslash before it."""

    delimiter: str
    backslash: bool = False

    def read(self, lines: Iterable[str], strict: bool = False) -> Any:
        """A `csv.reader` over lines that keep their ends."""
        escape = "\\" if self.backslash else None
        return csv.reader(lines, delimiter=self.delimiter, doublequote=not self.backslash, escapechar=escape, strict=strict)

    def __str__(self) -> str:
        between = NAMES.get(self.delimiter, repr(self.delimiter))
        return f"{between} between the cells{', backslashes before quotes' if self.backslash else ''}"


def find_dialect(head: str, usual: str, given: str | None = None) -> Dialect:
    """The dialect of a file that begins with `head`; `usual` is taken where nothing speaks against it."""
    delimiters = given or usual + DELIMITERS.replace(usual, "")
    quoting = (False, True) if '\\"' in head else (False,)
    found = [
        (*_fit(head, dialect), dialect) for backslash in quoting for d in delimiters for dialect in [Dialect(d, backslash)]
    ]
    wide = [(share, dialect) for share, width, dialect in found if width > 1]
    one_column = [(share, dialect) for share, width, dialect in found if width == 1]
    return max(wide or one_column or [(0.0, Dialect(delimiters[0]))], key=lambda item: item[0])[1]


def _fit(head: str, dialect: Dialect) -> tuple[float, int]:
    """(share of the rows that are as wide as the first one, its width)."""
    rows: list[list[str]] = []
    sound = 1.0
    try:
        rows.extend(row for row in islice(dialect.read(StringIO(head, newline=""), strict=True), ROWS) if row)
    except csv.Error:
        sound = 0.9
    if not rows:
        return 0.0, 0
    width = len(rows[0])
    others = rows[1:] if len(rows) < 3 else rows[1:-1]  # the last row may be cut
    return sound * sum(len(row) >= width and not any(row[width:]) for row in others) / max(1, len(others)), width
