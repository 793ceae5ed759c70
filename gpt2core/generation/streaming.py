"""From tokens, one by one, to text that can be shown: whole characters only, and nothing that a stop string may yet claim."""

from __future__ import annotations

import codecs
from collections.abc import Sequence

from gpt2core.text.tokenizer import Tokenizer

UNKNOWN = b"\xff"
"""Stands for an id that the vocabulary does not have; no UTF-8 has it."""


class TextStream:
    """Joins the bytes of tokens to characters and ends before the first stop string.

    The pieces that `add` and `close` return, joined, are `Tokenizer.decode` of all tokens, up to the stop string that is
    complete first (the longest one, where several end at one place), wherever the borders of tokens are.
    """

    def __init__(self, tokenizer: Tokenizer, stop: Sequence[str] = ()) -> None:
        self._token_bytes = tokenizer.token_bytes
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._stop = [text for text in stop if text]
        self._held = ""
        self.stopped = False
        """Whether a stop string was found; what comes after it is ignored."""

    def add(self, token: int) -> str:
        """The text that is certain now, often empty."""
        return self._release(self._decoder.decode(self._token_bytes.get(token, UNKNOWN)))

    def close(self) -> str:
        """What was held back, when no token follows."""
        certain = self._release(self._decoder.decode(b"", final=True))
        rest, self._held = ("" if self.stopped else self._held), ""
        return certain + rest

    def _release(self, text: str) -> str:
        if self.stopped:
            return ""
        self._held += text
        found = [(place + len(stop), place) for stop in self._stop if (place := self._held.find(stop)) >= 0]
        self.stopped = bool(found)
        end = min(found)[1] if found else len(self._held) - self._undecided()
        certain, self._held = self._held[:end], self._held[end:]
        return certain

    def _undecided(self) -> int:
        """Length of the longest end of the text that may become a stop string."""
        longest = min(len(self._held), max(map(len, self._stop), default=0))
        ends = (length for length in range(longest, 0, -1) if any(s.startswith(self._held[-length:]) for s in self._stop))
        return next(ends, 0)
