"""How the rows of a CSV file are written: what stands between the cells, and how a quote inside a cell is marked.

The dialect is the one by which most rows have as many cells as the head. On 22 files (`benchmarks/LOG.md`) this finds what
`csv.Sniffer` and clevercsv miss, text that is full of spaces and commas.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from io import StringIO
from itertools import islice
from typing import Any

DELIMITERS = ",;\t|"
NAMES = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}
ROWS = 1000
ENOUGH = 0.5
"""Share of rows as wide as the head from which a delimiter counts as found."""


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
    wide = [(share, dialect) for share, width, dialect in found if width > 1 and share >= ENOUGH]
    narrow = [(share, dialect) for share, width, dialect in found if width == 1]
    return max(wide or narrow or [(0.0, Dialect(delimiters[0]))], key=lambda item: item[0])[1]


def _fit(head: str, dialect: Dialect) -> tuple[float, int]:
    """(share of the rows that are as wide as the first one, its width)."""
    widths: list[int] = []
    sound = 1.0
    try:
        widths.extend(len(row) for row in islice(dialect.read(_lines(head), strict=True), ROWS) if row)
    except csv.Error:
        sound = 0.9
    if not widths:
        return 0.0, 0
    others = widths[1:] if len(widths) < 3 else widths[1:-1]  # the last row may be cut
    return sound * sum(width == widths[0] for width in others) / max(1, len(others)), widths[0]


def _lines(head: str) -> Iterator[str]:
    return iter(StringIO(head, newline=""))
