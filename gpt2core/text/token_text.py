"""Single tokens as text that a person can read: spaces and controls made visible, parts of a character named.

A byte-level token may end, or begin, inside a character: most Chinese characters and emoji are two or three tokens.
"""

from __future__ import annotations

import codecs
import unicodedata
from collections.abc import Iterable

SPACE = "·"
VISIBLE = {"\n": "⏎", "\t": "⇥", "\r": "␍", " ": SPACE}


def token_text(token: bytes, unfinished: bytes = b"") -> str:
    """The token as it reads behind `unfinished`, the bytes of a character that the tokens before it left open.

    Bytes that complete no character stand as hexadecimal numbers, such as ‹E4 B8›; what completes one is that character
    behind an ellipsis, …中.
    """
    decoder = codecs.getincrementaldecoder("utf-8")(errors="surrogateescape")
    text = decoder.decode(unfinished + token)
    open_bytes = decoder.getstate()[0]
    if unfinished and open_bytes == unfinished + token:
        return _hexadecimal(token)
    if unfinished and not _is_stray(text[0]):
        return "…" + _visible(text) + _hexadecimal(open_bytes)
    stray = len(unfinished) if unfinished else 0  # they never became a character: they are not this token's
    return _visible(text[stray:]) + _hexadecimal(open_bytes)


def token_texts(tokens: Iterable[bytes]) -> list[str]:
    """Tokens that follow one another, each as it reads there."""
    texts, unfinished = [], b""
    for token in tokens:
        texts.append(token_text(token, unfinished))
        unfinished = open_bytes(unfinished + token)
    return texts


def open_bytes(text: bytes) -> bytes:
    """The bytes at the end that begin a character and do not complete it."""
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    decoder.decode(text[-3:])  # no character has more than 4 bytes
    return decoder.getstate()[0]


def _visible(text: str) -> str:
    """Controls and whatever else has no shape of its own as code points; a combining mark on a dotted circle."""
    return "".join(_visible_character(character) for character in text).replace("›‹", " ")


def _visible_character(character: str) -> str:
    if _is_stray(character):
        return _hexadecimal(bytes([ord(character) - 0xDC00]))
    if character in VISIBLE:
        return VISIBLE[character]
    if unicodedata.combining(character):
        return "◌" + character
    return character if character.isprintable() else f"U+{ord(character):04X}"


def _is_stray(character: str) -> bool:
    """Whether this stands for a byte that is no part of a character (Python's surrogateescape)."""
    return "\udc80" <= character <= "\udcff"


def _hexadecimal(part: bytes) -> str:
    return f"‹{part.hex(' ').upper()}›" if part else ""
