"""The rows of CSV, TSV, JSONL, JSON, Parquet and Arrow, and the visible text of HTML. Which column is text: `text_column`."""

from __future__ import annotations

import csv
import io
import json
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from html.parser import HTMLParser
from itertools import chain
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from configs.errors import UserError
from gpt2core.text.csv_dialect import find_dialect
from gpt2core.text.text_column import SAMPLE_CHARACTERS, SAMPLE_ROWS, SPEAKERS, NumberedRow, TextColumn

LONGEST_CELL = 1 << 24
"""Characters of one cell at the most."""
HEAD = 1 << 18
"""Characters that the dialect of a CSV file is found in."""
SWALLOWED = 3
"""Lines inside one cell that look like rows, from which a quote is taken to be unclosed."""
ROWS = 1024
SAMPLED = 64
"""Rows read at once where the column of text is still to be found."""
HIDDEN_TAGS = {"script", "style", "head", "template", "noscript"}
BLOCK_TAGS = {
    *[
        "p",
        "div",
        "br",
        "li",
        "tr",
        "table",
        "h1",
        "h2",
        "h3",
        "h4",
        "h5",
        "h6",
        "ul",
        "ol",
        "pre",
        "section",
        "article",
        "header",
        "footer",
        "blockquote",
        "title",
        "hr",
    ]
}
DELIMITERS = {".csv": ",", ".tsv": "\t"}


def csv_texts(chunks: Iterator[str], usual: str, delimiter: str | None, column: TextColumn) -> Iterator[str]:
    """Cells of the text column; the first row holds the names. Cells may hold line ends, delimiters and quotes.

    Raises UserError with the number of a row that has other cells than the head, or whose quote is never closed.
    """
    with _named_rows(column.shown):
        start = list(_head(chunks))
        dialect = find_dialect("".join(start), usual, delimiter)
        column.details = f", {dialect}"
        csv.field_size_limit(LONGEST_CELL)
        lines = _Lines(chain(start, chunks))
        rows = _numbered_rows(dialect.read(lines), column.shown)
        _, names = next(rows, (0, []))
        if len(names) == 1:
            column.details = ""
        if twice := sorted({name for name in names if name and names.count(name) > 1}):
            column.tally.warnings.append(f"{column.inside}several columns are named {', '.join(twice)}: the last one counts")
        yield from column.texts(_named_cells(rows, names, dialect.delimiter, lines, column))


def jsonl_texts(chunks: Iterable[str], column: TextColumn) -> Iterator[str]:
    """The text field of each line; a line may also be a bare string. Missing and null are empty."""
    column.unit = "line"
    for text in column.texts(_json_lines(chunks, column.shown)):
        yield sound(text)


def sound(text: str) -> str:
    """The text with U+FFFD for halves of surrogate pairs, which JSON can hold and UTF-8 cannot."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def parquet_texts(stream: BinaryIO, column: TextColumn) -> Iterator[str]:
    """Values of the text column of a Parquet file."""
    with _named_rows(column.shown), _seekable(stream) as file:
        table = pq.ParquetFile(file)
        readable = _readable(table.schema_arrow, column)
        sample = table.iter_batches(batch_size=SAMPLED, columns=readable, use_threads=False)
        column.choose(list(_first_rows(sample)))
        wanted = readable if column.name is None else [column.name]
        batches = table.iter_batches(batch_size=ROWS, columns=wanted, use_threads=False)
        yield from column.cells(_batch_rows(batches))


def arrow_texts(stream: BinaryIO, column: TextColumn) -> Iterator[str]:
    """Values of the text column of an Arrow stream, as Hugging Face's library stores data sets."""
    with _named_rows(column.shown), pa.ipc.open_stream(pa.PythonFile(stream, mode="r")) as reader:
        readable = _readable(reader.schema, column)
        yield from column.texts(_batch_rows(_validated(reader, readable)))


def html_text(chunks: Iterable[str]) -> Iterator[str]:
    """The text that a page shows; blocks end with a line end."""
    page = _Page()
    for chunk in chunks:
        page.feed(chunk)
        yield page.take()
    page.close()
    yield page.take()


class _Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self._found: list[str] = []
        self._hidden = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:  # noqa: ARG002
        self._hidden += tag in HIDDEN_TAGS
        if tag in BLOCK_TAGS:
            self._found.append("\n")

    def handle_endtag(self, tag: str) -> None:
        self._hidden = max(0, self._hidden - (tag in HIDDEN_TAGS))
        if tag in BLOCK_TAGS:
            self._found.append("\n")

    def handle_data(self, data: str) -> None:
        if not self._hidden:
            self._found.append(data)

    def take(self) -> str:
        found, self._found = "".join(self._found), []
        return found


class _Encoded(io.RawIOBase):
    """Text as a stream of UTF-8, for readers that take bytes."""

    def __init__(self, chunks: Iterator[str]) -> None:
        self._chunks = chunks
        self._held = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        while not self._held:
            chunk = next(self._chunks, None)
            if chunk is None:
                return 0
            self._held = memoryview(chunk.encode("utf-8", "replace"))
        size = min(len(buffer), len(self._held))
        buffer[:size] = self._held[:size]
        self._held = self._held[size:]
        return size


class _Lines:
    """Lines with their ends, of any kind: LF, CR LF or CR."""

    def __init__(self, chunks: Iterator[str]) -> None:
        stream = io.BufferedReader(_Encoded(chunks), 1 << 18)
        self._lines = io.TextIOWrapper(stream, encoding="utf-8", newline="")
        self.ended = False
        """Whether somebody asked for more than there is."""

    def __iter__(self) -> Iterator[str]:
        yield from self._lines
        self.ended = True


def _numbered_rows(reader: Iterable[list[str]], shown: str) -> Iterator[tuple[int, list[str]]]:
    """The rows that are not blank, as a person counts them. Raises UserError with the number of one that is too long."""
    number = 0
    try:
        for number, row in enumerate(reader, start=1):
            if row:
                yield number, row
    except csv.Error as error:
        raise UserError(
            f"{shown}, row {number + 1} cannot be read ({error}): is a quote opened there and never closed? Close or double it."
        ) from None


def _named_cells(
    rows: Iterator[tuple[int, list[str]]], names: list[str], delimiter: str, lines: _Lines, column: TextColumn
) -> Iterator[NumberedRow]:
    """Rows as {name: cell}, checked."""
    warned = False
    for number, row in rows:
        if lines.ended and "\n" in row[-1].rstrip("\n"):
            raise UserError(
                f"{column.shown}, row {number}: a quote is opened and never closed, so that all behind it is one cell "
                f"({row[-1][:30]!r}...): close the quote, or double it where it belongs to the text."
            )
        if len(row) < len(names) or any(row[len(names) :]):
            raise UserError(
                f"{column.shown} cannot be read as the table that its name says (row {number}: Expected {len(names)} columns, "
                f"got {len(row)}): put cells with line ends or {delimiter!r} in quotes, or set data.delimiter."
            )
        if not warned and len(names) > 1 and any(_swallows(cell, delimiter, len(names)) for cell in row if "\n" in cell):
            warned = True
            column.tally.warnings.append(
                f"{column.inside}row {number} has lines inside a cell that look like rows: is a quote before them not closed?"
            )
        yield number, dict(zip(names, row, strict=False))


def _swallows(cell: str, delimiter: str, width: int) -> bool:
    """Whether the lines inside a cell look like rows."""
    inside = cell.split("\n")[1:-1]
    return len(inside) >= SWALLOWED and all(line.count(delimiter) == width - 1 for line in inside)


def _head(chunks: Iterator[str]) -> Iterator[str]:
    held = 0
    while held < HEAD and (chunk := next(chunks, "")):
        held += len(chunk)
        yield chunk


def _json_lines(chunks: Iterable[str], shown: str) -> Iterator[NumberedRow]:
    for number, line in enumerate(_Lines(iter(chunks)), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            many = ", or name the file .json where it is one array" if number == 1 and line.strip() in ("[", "{") else ""
            raise UserError(f"{shown}, line {number} is not JSON ({error}): correct or remove the line{many}.") from None
        yield number, row


def _readable(schema: pa.Schema, column: TextColumn) -> list[str]:
    """The columns that may hold text, or the wanted one. Raises UserError that lists all where there is none."""
    if column.wanted is not None and column.wanted in schema.names:
        return [column.wanted]
    found = [field.name for field in schema if _is_text(field.type)]
    if column.wanted is None and found:
        return found
    what = "no column of text" if column.wanted is None else f"no column {column.wanted!r}"
    listed = ", ".join(f"{field.name} ({field.type})" for field in schema)
    raise UserError(f"{column.shown} has {what}: set data.text_column to one of {listed}.")


def _is_text(kind: pa.DataType) -> bool:
    """Strings, or lists of strings or of a chat's messages, however they are stored."""
    types = pa.types
    if types.is_dictionary(kind):
        return _is_text(kind.value_type)
    if types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        inner = kind.value_type
        fields = {inner.field(number).name for number in range(inner.num_fields)} if types.is_struct(inner) else set()
        return _is_text(inner) or any(fields.issuperset(keys) for keys in SPEAKERS)
    return bool(types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind))


def _validated(batches: Iterable[pa.RecordBatch], names: list[str]) -> Iterator[pa.RecordBatch]:
    for batch in batches:
        batch.validate(full=True)  # offsets of a damaged file would be read as they are
        yield batch.select(names)


def _batch_rows(batches: Iterable[pa.RecordBatch]) -> Iterator[NumberedRow]:
    yield from enumerate((row for batch in batches for row in batch.to_pylist()), start=1)


def _first_rows(batches: Iterator[pa.RecordBatch]) -> Iterator[Any]:
    """Rows until there are enough to choose a column from."""
    rows = size = 0
    for batch in batches:
        yield from batch.to_pylist()
        rows, size = rows + batch.num_rows, size + batch.nbytes
        if rows >= SAMPLE_ROWS or size >= SAMPLE_CHARACTERS:
            return


@contextmanager
def _seekable(stream: BinaryIO) -> Iterator[Any]:
    """Parquet is read from its end: what cannot be wound back is copied to a temporary file first."""
    if stream.seekable():
        yield stream
        return
    with tempfile.TemporaryFile() as copy:
        while chunk := stream.read(1 << 20):
            copy.write(chunk)
        copy.seek(0)
        yield copy


@contextmanager
def _named_rows(shown: str) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowException, csv.Error, ValueError, LookupError, MemoryError, OverflowError) as error:
        reason = str(error).split("\n")[0].rstrip(".")
        raise UserError(f"{shown} cannot be read as the table that its name says ({reason[:200]}): correct the file.") from None
