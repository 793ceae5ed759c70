"""The text column of CSV, TSV, JSONL, Parquet, Arrow, and the visible text of HTML."""

from __future__ import annotations

import csv
import io
import json
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from html.parser import HTMLParser
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from configs.errors import UserError

NAMES = ("text", "content", "body", "document", "article", "story", "message", "sentence", "tweet", "review", "completion")
"""Names by which the column of text is found, the first one first."""
CSV_BLOCK = 1 << 24
"""Bytes read at once; a single row may not be longer."""
ROWS = 1024
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


def choose_column(columns: dict[str, bool], wanted: str | None, shown: str) -> str:
    """The column of text among {name: whether it holds strings}; raises UserError that lists the columns."""
    if wanted is not None:
        if wanted in columns:
            return wanted
        raise UserError(f"{shown} has no column {wanted!r}: set data.text_column to one of {_listed(columns)}.")
    by_name = {name.lower(): name for name in reversed(list(columns)) if columns[name]}
    known = [by_name[name] for name in NAMES if name in by_name]
    strings = [name for name, is_text in columns.items() if is_text]
    if known:
        return known[0]
    if len(strings) == 1 or len(columns) == 1:
        return (strings or list(columns))[0]
    raise UserError(f"{shown} has several columns that may be the text: set data.text_column to one of {_listed(columns)}.")


def csv_rows(open_text: Callable[[], Iterator[str]], delimiter: str, wanted: str | None, shown: str) -> Iterator[str]:
    """Cells of the text column; the first row holds the names. Cells may hold line ends and quotes (RFC 4180)."""
    with _named_rows(shown):
        names = next(csv.reader(_lines(open_text()), delimiter=delimiter), [])
        if not names:
            return
        column = wanted if wanted is not None else _text_column(open_text, names, delimiter, shown)
        column = choose_column(dict.fromkeys(names, True), column, shown)
        convert = pacsv.ConvertOptions(include_columns=[column], column_types={column: pa.string()}, strings_can_be_null=False)
        for batch in _open_csv(open_text, delimiter, convert):
            yield from batch.column(0).to_pylist()


def jsonl_rows(chunks: Iterable[str], wanted: str | None, shown: str) -> Iterator[str]:
    """The text field of each line; a line may also be a bare string. Missing and null are empty."""
    column = wanted
    for number, line in enumerate(_lines(chunks), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise UserError(f"{shown}, line {number} is not JSON ({error}): correct or remove the line.") from None
        if isinstance(row, dict):
            if column is None or (wanted is not None and number == 1):
                column = choose_column({key: isinstance(value, str) for key, value in row.items()}, wanted, shown)
            row = row.get(column)
        if not isinstance(row, str | None):
            raise UserError(
                f"{shown}, line {number}: {column or 'the line'} is no text: set data.text_column to a field of text."
            )
        yield (row or "").encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def parquet_rows(stream: BinaryIO, wanted: str | None, shown: str) -> Iterator[str]:
    """Values of the text column of a Parquet file."""
    with _named_rows(shown), _seekable(stream) as file:
        table = pq.ParquetFile(file)
        column = choose_column(_columns(table.schema_arrow), wanted, shown)
        for batch in table.iter_batches(batch_size=ROWS, columns=[column], use_threads=False):
            yield from _strings(batch.column(0))


def arrow_rows(stream: BinaryIO, wanted: str | None, shown: str) -> Iterator[str]:
    """Values of the text column of an Arrow stream, as Hugging Face's library stores data sets."""
    with _named_rows(shown), pa.ipc.open_stream(pa.PythonFile(stream, mode="r")) as reader:
        column = choose_column(_columns(reader.schema), wanted, shown)
        for batch in reader:
            batch.validate(full=True)  # offsets of a damaged file would be read as they are
            yield from _strings(batch.column(column))


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


def _open_csv(open_text: Callable[[], Iterator[str]], delimiter: str, convert: pacsv.ConvertOptions | None = None) -> Any:
    stream = io.BufferedReader(_Encoded(open_text()), 1 << 18)
    return pacsv.open_csv(
        pa.PythonFile(stream, mode="r"),
        read_options=pacsv.ReadOptions(block_size=CSV_BLOCK, use_threads=False),
        parse_options=pacsv.ParseOptions(delimiter=delimiter, newlines_in_values=True),
        convert_options=convert or pacsv.ConvertOptions(),
    )


def _text_column(open_text: Callable[[], Iterator[str]], names: list[str], delimiter: str, shown: str) -> str:
    """The column by its name, and only where no name is known by the types that the first block shows."""
    if any(name.lower() in NAMES for name in names) or len(names) == 1:
        return choose_column(dict.fromkeys(names, True), None, shown)
    return choose_column(_columns(_open_csv(open_text, delimiter).schema), None, shown)


def _columns(schema: pa.Schema) -> dict[str, bool]:
    return {field.name: _is_text(field.type) for field in schema}


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def _strings(column: pa.Array) -> Iterator[str]:
    for value in column.cast(pa.large_string()).to_pylist():
        yield value or ""


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


def _lines(chunks: Iterable[str]) -> Iterator[str]:
    held: list[str] = []
    for chunk in chunks:
        first, *others = chunk.split("\n")
        held.append(first)
        for other in others:
            yield "".join(held) + "\n"
            held = [other]
    if last := "".join(held):
        yield last


def _listed(columns: Iterable[str]) -> str:
    return ", ".join(columns)
