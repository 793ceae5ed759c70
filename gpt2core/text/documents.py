"""From the files of a corpus to documents: each format's reader, and pieces of clean text out of it.

Finding the files is in `sources`; splitting into training and validation, encoding and storing are elsewhere.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import BinaryIO

from configs.errors import UserError
from configs.schema import DataSettings
from gpt2core.text.containers import Allowance, members, named_damage, plain_name, refuse_binary
from gpt2core.text.json_records import find_records, numbered
from gpt2core.text.pieces import PIECE, Piece, Tally, decoded, split_documents
from gpt2core.text.sources import END_OF_TEXT, PYTHON_TOPICS, SourceFile, check_sources, find_files, open_source, stamp_of
from gpt2core.text.tables import DELIMITERS, arrow_texts, csv_texts, html_text, jsonl_texts, parquet_texts, sound
from gpt2core.text.text_column import NAMES, TextColumn
from gpt2core.text.token_arrays import read_npz

__all__ = [
    "END_OF_TEXT",
    "PYTHON_TOPICS",
    "Document",
    "SourceFile",
    "check_sources",
    "find_files",
    "is_empty",
    "pieces_of",
    "read_documents",
    "rows_of",
]


@dataclass(frozen=True)
class Document:
    """A text that ends with the end-of-text id in the token stream."""

    source: str
    index: int
    """Position within the source, empty documents counted."""
    text: str


def read_documents(files: Iterable[SourceFile], settings: DataSettings) -> Iterator[Document]:
    """Every document with text in it, whole and in order; raises UserError where nothing can be read."""
    files = list(files)
    nothing = True
    for file in files:
        held: list[str] = []
        for piece in pieces_of(file, settings):
            _refuse_ids(piece, file)
            held.append(piece.text)
            if piece.last:
                document, held = Document(piece.source or file.source, piece.number, "".join(held)), []
                if not is_empty(document):
                    nothing = False
                    yield document
    if nothing:
        names = ", ".join(file.location for file in files[:3])
        raise UserError(f"There is no text in {names}{' ...' if len(files) > 3 else ''}: give a file with text in it.")


def is_empty(document: Document) -> bool:
    """Whether there is nothing to learn from: no text, or white space only."""
    return not document.text.strip()


def pieces_of(file: SourceFile, settings: DataSettings, tally: Tally | None = None) -> Iterator[Piece]:
    """The documents of one file in pieces, empty ones too.

    Raises UserError if the file cannot be read as what its name says, or changed since it was found.
    """
    allowance = Allowance(file.location, settings.expanded_limit)
    index = 0
    _refuse_change(file)
    with open_source(file.location) as stream, named_damage(file.location):
        for name, content in members(PurePosixPath(file.location).name, stream, file.location, allowance):
            inside = name if _is_archive(file) else ""
            shown = f"{file.location}/{name}" if inside else file.location
            reader = _Reader(name, content, shown, inside and f"{inside}: ", settings, tally or Tally())
            for piece in reader.pieces(index):
                index = piece.number + piece.last
                yield piece._replace(source=f"{file.source}/{name}") if inside else piece
    _refuse_change(file)


def texts_of(files: Iterable[SourceFile], settings: DataSettings) -> Iterator[str]:
    """All text in pieces, for training a vocabulary; raises UserError as `read_documents` does."""
    nothing = True
    for file in files:
        for piece in pieces_of(file, settings):
            _refuse_ids(piece, file)
            nothing = nothing and not piece.text.strip()
            yield piece.text
    if nothing:
        raise UserError("There is no text in data.source: give a file with text in it.")


def rows_of(file: SourceFile, settings: DataSettings, tally: Tally, usual: tuple[str, ...] = NAMES) -> Iterator[str]:
    """The text of each row of a table, empty ones too; nothing inside a row is taken for a mark of documents.

    `usual` are names by which the column is found. Raises UserError as `pieces_of` does, and for a file that is no table.
    """
    allowance = Allowance(file.location, settings.expanded_limit)
    _refuse_change(file)
    with open_source(file.location) as stream, named_damage(file.location):
        for name, content in members(PurePosixPath(file.location).name, stream, file.location, allowance):
            rows = _Reader(name, content, file.location, "", settings, tally, usual).rows()
            if rows is None:
                raise UserError(f"{file.location} is no table: give .jsonl, .json, .csv, .tsv, .parquet or .arrow.")
            yield from rows
    _refuse_change(file)


class _Reader:
    """One text, table or array inside a file."""

    def __init__(
        self,
        name: str,
        content: BinaryIO,
        shown: str,
        inside: str,
        settings: DataSettings,
        tally: Tally,
        usual: tuple[str, ...] = NAMES,
    ) -> None:
        self._kind = PurePosixPath(name).suffix.lower()
        self._inside = inside
        self._content = content
        self._shown = shown
        self._settings = settings
        self._tally = tally
        self._usual = usual
        self._errors_before = tally.decode_errors

    def pieces(self, first: int) -> Iterator[Piece]:
        """The documents, numbered from `first`."""
        if self._kind == ".npz":
            yield from read_npz(_rewindable(self._content), self._shown, first)
        elif (rows := self.rows()) is not None:
            yield from _row_pieces(rows, first, self._settings.newlines == "normalize")
        else:
            chunks = self._text()
            yield from split_documents(html_text(chunks) if self._kind in (".html", ".htm") else chunks, first)

    def rows(self) -> Iterator[str] | None:
        """The texts of a table's rows; None for what is none."""
        column = TextColumn(self._shown, self._settings.text_column, self._tally, inside=self._inside, usual=self._usual)
        delimiter = self._settings.delimiter
        readers: dict[str, Callable[[], Iterator[str] | None]] = {
            ".csv": lambda: csv_texts(self._text(), DELIMITERS[".csv"], delimiter, column),
            ".tsv": lambda: csv_texts(self._text(), DELIMITERS[".tsv"], delimiter, column),
            ".jsonl": lambda: jsonl_texts(self._text(), column),
            ".ndjson": lambda: jsonl_texts(self._text(), column),
            ".json": lambda: self._records(column),
            ".parquet": lambda: parquet_texts(self._content, column),
            ".arrow": lambda: arrow_texts(self._content, column),
        }
        reader = readers.get(self._kind)
        return reader and reader()

    def _records(self, column: TextColumn) -> Iterator[str] | None:
        """The texts of a .json file's records; None where it is to be read as plain text."""
        self._content = _rewindable(self._content)
        records = find_records(self._texts)
        if records is None:
            self._tally.warnings.append(
                f"{self._inside}no list of records was found: read as plain text, with its brackets and keys"
            )
            self._rewind()
            return None
        column.unit = "record"
        return map(sound, column.texts(numbered(records(), self._shown)))

    def _text(self) -> Iterator[str]:
        head = self._content.read(16)
        refuse_binary(head, self._shown, self._settings.encoding)
        yield from decoded(_Joined(head, self._content), self._shown, self._settings, self._tally)

    def _texts(self) -> Iterator[str]:
        """The text from its beginning, as often as it is asked for; decoding errors are counted once."""
        self._rewind()
        return self._text()

    def _rewind(self) -> None:
        self._content.seek(0)
        self._tally.decode_errors = self._errors_before


class _Joined(io.RawIOBase):
    """Bytes that were read already, then the rest of the stream."""

    def __init__(self, head: bytes, rest: BinaryIO) -> None:
        self._head = head
        self._rest = rest

    def read(self, size: int = -1) -> bytes:
        head, self._head = self._head, b""
        return head + self._rest.read(max(0, size - len(head)) if size >= 0 else size)


def _row_pieces(rows: Iterable[str], first: int, normalize: bool) -> Iterator[Piece]:
    """A document a row; the marks of documents count inside a row too."""
    index = first
    for row in rows:
        text = row.replace("\r\n", "\n") if normalize else row
        if len(text) <= PIECE and "<|" not in text:
            yield Piece(index, text, last=True)
            index += 1
            continue
        for piece in split_documents([text], index):
            yield piece
            index = piece.number + piece.last


def _rewindable(content: BinaryIO) -> BinaryIO:
    """The stream itself, or a temporary copy where it cannot be wound back."""
    if content.seekable():
        return content
    import tempfile

    copy = tempfile.TemporaryFile()  # noqa: SIM115 (closed with its last reference)
    while chunk := content.read(1 << 20):
        copy.write(chunk)
    copy.seek(0)
    return copy


def _is_archive(file: SourceFile) -> bool:
    return plain_name(file.location).lower().endswith((".zip", ".tar"))


def _refuse_change(file: SourceFile) -> None:
    if stamp_of(file.location) != file.stamp:
        raise UserError(f"{file.location} changed while it was read: run the command again when nothing writes to it.")


def _refuse_ids(piece: Piece, file: SourceFile) -> None:
    if piece.ids is not None:
        raise UserError(
            f"{file.location} holds token ids and no text: set tokenizer.source to the vocabulary that made them, "
            "such as 'base' or a folder with encoder.json and vocab.bpe."
        )
