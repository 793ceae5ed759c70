"""Which column of a table holds the text, what a cell of it says, and what is worth telling about both.

The column is found in the first rows and all columns: by a usual name, else the one with most characters. A cell is text, a
list of texts (joined by line ends), or a chat: a list of messages, each read as `role: content` on a line of its own.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Any

from configs.errors import UserError
from gpt2core.text.pieces import Tally

NAMES = ("text", "content", "body", "document", "article", "story", "message", "sentence", "tweet", "review", "completion")
"""Names by which the column of text is found, the first one first."""
SAMPLE_ROWS = 1000
SAMPLE_CHARACTERS = 1 << 24
"""The column is chosen from so many rows at the most, and no more text than this is held for it."""
SPEAKERS = (("role", "content"), ("from", "value"))
"""Keys of a chat's messages: OpenAI's names, and ShareGPT's."""
NumberedRow = tuple[int, Any]
"""(number as a person counts, fields by name or a bare value)."""


@dataclass
class TextColumn:
    """Takes the text out of the rows of one table, and tells the tally how."""

    shown: str
    wanted: str | None
    tally: Tally
    unit: str = "row"
    """What a person counts: rows, or lines of a file."""
    details: str = ""
    """What else was guessed."""
    inside: str = ""
    """Name within the archive, for the notes."""
    name: str | None = None
    """The column; none where the rows are bare texts."""
    usual: tuple[str, ...] = NAMES
    """Names by which the column is found, the first one first."""
    _share: float = 1.0
    _sampled: int = 0
    _others: tuple[str, ...] = ()
    _joined: str = ""
    """How cells that are lists are read, if there are any in the first rows."""

    def texts(self, rows: Iterable[NumberedRow]) -> Iterator[str]:
        """The text of each row, empty where it is null or missing. Raises UserError for a cell that is no text."""
        rows = iter(rows)
        sample = list(_first(rows))
        self.choose([row for _, row in sample])
        yield from self.cells(chain(sample, rows))

    def choose(self, sample: list[Any]) -> None:
        """Take the column from the first rows. Raises UserError that lists the columns where none holds text."""
        characters = Counter[str]()
        names: dict[str, None] = {}
        for row in sample:
            if isinstance(row, dict):
                names |= dict.fromkeys(row)
                characters.update({name: count for name, value in row.items() if (count := _characters(value))})
        readable = [name for name in names if any(_is_text(row.get(name)) for row in sample if isinstance(row, dict))]
        self.name = self._found(list(names), readable, characters)
        self._sampled, self._others = len(sample), tuple(name for name in readable if name != self.name)
        self._joined = _joining([row.get(self.name) if isinstance(row, dict) else row for row in sample])
        self._share = characters[self.name] / (sum(characters.values()) or 1) if self.name is not None else 1.0

    def cells(self, rows: Iterable[NumberedRow]) -> Iterator[str]:
        """The texts of the chosen column; the tally hears about it after the last one."""
        count = empty = 0
        for number, row in rows:
            text = self._text(number, row.get(self.name) if isinstance(row, dict) else row)
            count += 1
            empty += not text
            yield text
        self._tell(count, empty)

    def _found(self, names: list[str], readable: list[str], characters: Counter[str]) -> str | None:
        if self.wanted is not None and names:
            if self.wanted in names:
                return self.wanted
            raise UserError(f"{self.shown} has no column {self.wanted!r}: set data.text_column to one of {', '.join(names)}.")
        by_name = {name.lower(): name for name in reversed(readable)}
        if known := [by_name[name] for name in self.usual if name in by_name]:
            return known[0]
        if readable:
            return max(readable, key=lambda name: characters[name])
        if names:
            raise UserError(
                f"{self.shown} has no column of text in its first rows (it has {', '.join(names)}): "
                "give a table with text, or set data.text_column."
            )
        return None

    def _text(self, number: int, value: Any) -> str:
        if value is None or isinstance(value, str):
            return value or ""
        if (text := _plain(value)) is None:
            held = f"the number {value}" if isinstance(value, int | float) else "of another kind"
            raise UserError(
                f"{self.shown}, {self.unit} {number}: {self.name or f'the {self.unit}'} is no text but {held}: correct or "
                f"remove the {self.unit}, or set data.text_column to a field of text, a list of texts or chat messages."
            )
        return text

    def _tell(self, rows: int, empty: int) -> None:
        column = f"text from column {self.name!r}" if self.name is not None else f"a text in each {self.unit}"
        missing = f", {empty:,} of them without text" if empty else ""
        share = f", {self._share:.0%} of the characters in the first {self._sampled:,}" if self.name is not None else ""
        self.tally.notes.append(f"{self.inside}{column}{self._joined}{self.details}; {rows:,} rows{missing}{share}")
        if self._share < 0.5 and self.wanted is None and self._others:
            self.tally.warnings.append(
                f"{self.inside}column {self.name!r} holds only {self._share:.0%} of the text: "
                f"set data.text_column if another is meant ({', '.join(self._others[:8])})"
            )
        if empty * 2 > rows > 0:
            self.tally.warnings.append(f"{self.inside}{empty:,} of {rows:,} rows have no text in column {self.name!r}")


def _first(rows: Iterator[NumberedRow]) -> Iterator[NumberedRow]:
    """The rows that the column is chosen from."""
    held = 0
    for count, row in enumerate(rows, start=1):
        yield row
        held += _characters(row[1])
        if count >= SAMPLE_ROWS or held >= SAMPLE_CHARACTERS:
            return


def _is_text(value: Any) -> bool:
    """Whether a cell holds text; a number that a CSV file holds in writing is none."""
    if isinstance(value, str):
        return not _is_number(value)
    return bool(value) and _plain(value) is not None


def _joining(cells: list[Any]) -> str:
    lists = [cell for cell in cells if isinstance(cell, list) and cell]
    if any(isinstance(item, dict) for cell in lists for item in cell):
        return ", chats read as a line `role: content` for each message"
    return ", lists of texts joined by line ends" if lists else ""


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return not text
    return True


def _plain(value: Any) -> str | None:
    """A list of texts, or of messages, as text; None for anything else."""
    if not isinstance(value, list):
        return None
    lines = [item if isinstance(item, str) else _message(item) for item in value if item is not None]
    return "\n".join(line for line in lines if line is not None) if None not in lines else None


def _message(item: Any) -> str | None:
    if not isinstance(item, dict):
        return None
    for speaker, said in SPEAKERS:
        if isinstance(item.get(speaker), str) and said in item:
            content = item[said]
            if isinstance(content, list):  # parts: those of text count, pictures do not
                content = "\n".join(part["text"] for part in content if isinstance(part, dict) and "text" in part)
            return f"{item[speaker]}: {content or ''}"
    return None


def _characters(value: Any) -> int:
    """Characters of all texts inside a value."""
    if isinstance(value, str):
        return len(value)
    if isinstance(value, dict):
        return sum(map(_characters, value.values()))
    return sum(map(_characters, value)) if isinstance(value, list) else 0
