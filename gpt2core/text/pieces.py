"""From bytes to pieces of documents: decoding, line ends, and the marks that separate documents.

A document of any length is a sequence of pieces, so that no step ever holds it as a whole. Where the pieces end depends on the
text alone, and the ids of the pieces, joined, are the ids of the document.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import numpy as np

from configs.errors import UserError
from configs.schema import DataSettings

MARK = re.compile(r"<\|(endoftext|startoftext)\|>")
LONGEST_MARK = len("<|startoftext|>")
WORD_END = re.compile(r"(?<=\S)(?=\s)")
PIECE = 1 << 16
"""Characters after which a piece ends at the next place where white space follows a word."""
LONGEST_PIECE = 1 << 20
"""Characters after which a piece ends in any case: text without white space would fill the memory."""
CHUNK = 1 << 20
REPLACEMENT = {"replace": "�", "ignore": ""}


class Readable(Protocol):
    """Anything with bytes to read."""

    def read(self, size: int = -1, /) -> bytes:
        """The next bytes, none at the end."""


class Piece(NamedTuple):
    """The next part of a document: text, or ids where the source holds those."""

    number: int
    """Number of the document within its source, empty ones counted."""
    text: str
    last: bool
    """Whether the document ends with it."""
    ids: np.ndarray[Any, Any] | None = None
    source: str = ""
    """Name of the member, where the source is an archive."""


@dataclass
class Tally:
    """What was noticed while reading one file."""

    decode_errors: int = 0
    notes: list[str] = field(default_factory=list)
    """What was guessed, a sentence a table."""
    warnings: list[str] = field(default_factory=list)
    """Guesses that look wrong."""


def decoded(stream: Readable, shown: str, settings: DataSettings, tally: Tally) -> Iterator[str]:
    """The text of a stream in chunks, without byte-order marks, line ends as `data.newlines` says.

    Raises UserError that names the byte which is not in the encoding, or NUL bytes, which no text has.
    """
    begun, held = False, ""
    for text in _decode(stream, shown, settings, tally):
        if not begun and text:
            begun, text = True, text.lstrip("\ufeff")
        if settings.newlines == "normalize":
            text = held + text
            held = "\r" if text.endswith("\r") else ""
            text = text[:-1] if held else text
            text = text.replace("\r\n", "\n") if "\r" in text else text  # looking for one character is far faster
        if text:
            yield text
    if held:
        yield held


def _decode(stream: Readable, shown: str, settings: DataSettings, tally: Tally) -> Iterator[str]:
    decoder = codecs.getincrementaldecoder(settings.encoding)("strict")
    sparse = settings.encoding.startswith(("utf-16", "utf-32"))
    place = 0
    while True:
        raw = stream.read(CHUNK)
        if not sparse and (at := raw.find(b"\0")) >= 0:
            raise UserError(_not_text(raw, place + at, shown))
        yield from _decode_chunk(decoder, raw, place, shown, settings, tally)
        place += len(raw)
        if not raw:
            return


def _decode_chunk(
    decoder: codecs.IncrementalDecoder, raw: bytes, place: int, shown: str, settings: DataSettings, tally: Tally
) -> Iterator[str]:
    """The chunk that starts at byte `place`; the decoder keeps what is not complete. An empty chunk is the end."""
    final = not raw
    while True:
        kept = len(decoder.getstate()[0])
        try:
            yield decoder.decode(raw, final)
            return
        except UnicodeDecodeError as error:
            if settings.errors == "strict":
                raise UserError(_not_in_encoding(error, place - kept, shown, settings.encoding)) from None
            tally.decode_errors += 1
            decoder.reset()
            yield error.object[: error.start].decode(settings.encoding) + REPLACEMENT[settings.errors]
            place += error.end - kept
            raw = error.object[error.end :]


def _not_text(raw: bytes, at: int, shown: str) -> str:
    """What bytes with a NUL among them look like: UTF-16 has it in every second byte of Latin letters, on one side only."""
    counts = raw[0::2].count(0), raw[1::2].count(0)
    if min(counts) == 0 and max(counts) > 1:
        name, order = ("utf-16-le", "little") if counts[1] else ("utf-16-be", "big")
        return f"{shown} looks like UTF-16 text without a byte-order mark ({order}-endian): set data.encoding to {name}."
    return f"{shown} is a binary file (NUL at byte {at}): give text files, for a folder as a glob such as folder/**/*.txt."


def _not_in_encoding(error: UnicodeDecodeError, start: int, shown: str, encoding: str) -> str:
    name = "UTF-8" if encoding == "utf-8" else encoding
    return (
        f"{shown} is not {name}: byte {start + error.start} is 0x{error.object[error.start]:02x} ({error.reason}). "
        "Name its encoding in data.encoding (latin-1, utf-16 ...), or set data.errors to replace or ignore."
    )


def split_documents(chunks: Iterable[str], first: int = 0) -> Iterator[Piece]:
    """Pieces of the documents in a text; `<|endoftext|>` ends one, `<|startoftext|>` begins one. At least one is found.

    Blank text before `<|startoftext|>` is no document: gpt-2-simple writes a line end there.
    """
    index, held, begun, searched = first, "", False, 0
    for chunk in chunks:
        held += chunk
        place = 0
        while (mark := MARK.search(held, max(place, searched))) is not None:
            document = held[place : mark.start()]
            if begun or mark[1] == "endoftext" or document.strip():
                yield from _rest(index, document)
                index, begun = index + 1, False
            place = searched = mark.end()
        for end in _ends(held, place, final=False):
            yield Piece(index, held[place:end], last=False)
            place, begun = end, True
        held = held[place:]
        searched = max(0, len(held) - LONGEST_MARK + 1)
    yield from _rest(index, held)


def cut_text(text: str, size: int = PIECE) -> Iterator[str]:
    """The pieces of a whole text, of about `size` characters."""
    place = 0
    for end in _ends(text, 0, final=True, size=size):
        yield text[place:end]
        place = end
    yield text[place:]


def _rest(index: int, text: str) -> Iterator[Piece]:
    """The last pieces of a document."""
    if len(text) <= PIECE:
        yield Piece(index, text, last=True)
        return
    place = 0
    for end in _ends(text, 0, final=True):
        yield Piece(index, text[place:end], last=False)
        place = end
    yield Piece(index, text[place:], last=True)


def _ends(text: str, place: int, final: bool, size: int = PIECE) -> Iterator[int]:
    """Where pieces end. Unless the text is `final`, an end that more text could still change is left for later."""
    while len(text) > place + size:
        if found := WORD_END.search(text, place + size, place + LONGEST_PIECE):
            place = found.start()
        elif len(text) >= place + LONGEST_PIECE + (0 if final else LONGEST_MARK):
            place += LONGEST_PIECE
        else:
            return
        yield place
