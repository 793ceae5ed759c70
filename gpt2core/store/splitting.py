"""Which text is for training and which is held out for validation.

The rule, the same on any machine and in any order of the documents:

1. A document of up to 256 KiB goes whole to one side, decided by its own hash. So it stays there when other documents arrive,
   and the same text never stands on both sides.
2. A longer document is cut: its end is held out.
3. Where chance holds out less than half of what was asked for, because there are few documents, those for training are cut as
   well.
4. Where chance holds out more than half of all text (a handful of documents), every document is cut.

Rules 1 and 2 look at one document alone, so under them text keeps its side for ever. Rules 3 and 4 look at all of them:
where one begins or ends to apply because documents arrived or went, the ends of documents change sides. How likely rule 3
applies to documents of one size of which a tenth is asked for (the binomial distribution below half its mean): 35% for 10,
12% for 20, 2.4% for 100, 0.06% for 300, 2 in 100,000 for 500. The manifest says under `cut` which of them applied; a corpus
that grows from a handful is split for good by `data.validation_source`.

With a separate validation source nothing of the other source is held out. A cut falls between paragraphs (else lines, words,
or anywhere), and the paragraph in between is left out, so that held-out text does not go on where training text ends.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, NamedTuple

Split = Literal["train", "validation"]
SPLITS: tuple[Split, ...] = ("train", "validation")
BORDERS = ("\n\n", "\n", " ")
CUT_ABOVE = 1 << 18
"""Documents of more bytes than this are cut."""
REACH = 1 << 16
"""Characters around the wanted place within which a border is looked for."""


class Side(NamedTuple):
    """Training or held-out part of a cut document."""

    split: Split
    start: int
    """First character."""
    end: int
    """Character after the last one."""
    n_bytes: int
    sha256: str


@dataclass(frozen=True)
class SplitRule:
    """Decides for each document on its own."""

    validation: float
    """Share of the bytes to hold out; 0 where validation has a source of its own."""
    few: bool = False
    """Whether documents for training are cut whatever their size."""
    all: bool = False
    """Whether every document is cut."""

    def split(self, sha256: bytes, n_bytes: int) -> Split | None:
        """The side of a whole document, or None for one to be cut."""
        if not self.validation:
            return "train"
        if n_bytes > CUT_ABOVE or self.all:
            return None
        if held_out(sha256, self.validation):
            return "validation"
        return None if self.few else "train"


@dataclass
class Shares:
    """Bytes by what rules 1 and 2 do with them, from which rules 3 and 4 follow."""

    whole: int = 0
    """Of documents that are not cut."""
    held_out: int = 0
    """Of those, the ones that are held out."""
    cut: int = 0
    """Of documents that are cut."""

    def add(self, sha256: bytes, n_bytes: int, validation: float) -> None:
        """Count one document."""
        if n_bytes > CUT_ABOVE:
            self.cut += n_bytes
        else:
            self.whole += n_bytes
            self.held_out += n_bytes if held_out(sha256, validation) else 0

    def rule(self, validation: float) -> SplitRule:
        """The rule that suits."""
        share = (self.held_out + validation * self.cut) / max(1, self.whole + self.cut)
        return SplitRule(validation, few=share < validation / 2, all=share > 0.5)


def held_out(digest: bytes, validation: float) -> bool:
    """Whether the hash, read as a number from 0 to 1, lies below the share."""
    return int.from_bytes(digest[:8], "big") < validation * 2**64


def cut_document(pieces: Iterable[str], n_characters: int, validation: float) -> list[Side]:
    """Both sides of a document that is read once, or none where it is too short to be cut."""
    cutter = _Cutter(n_characters, validation)
    for piece in pieces:
        cutter.add(piece)
    return cutter.sides()


class _Cutter:
    """Hashes what comes before and after the window around the wanted place, and keeps the window."""

    def __init__(self, n_characters: int, validation: float) -> None:
        self._target = round(n_characters * (1 - validation))
        reach = min(REACH, max(1, int(n_characters * validation / 2)))
        self._low = max(0, self._target - reach)
        self._high = min(n_characters, self._target + reach)
        self._end = n_characters
        self._place = 0
        self._window: list[str] = []
        self._before = _Text()
        self._after = _Text()
        self._found: tuple[int, int] | None = None

    def add(self, text: str) -> None:
        """The next characters of the document."""
        place, self._place = self._place, self._place + len(text)
        self._before.add(text[: max(0, self._low - place)])
        self._window.append(text[max(0, self._low - place) : max(0, self._high - place)])
        late = text[max(0, self._high - place) :]
        if late:
            self._decide()
            self._after.add(late)

    def sides(self) -> list[Side]:
        """What was found after the last character."""
        self._decide()
        assert self._found
        end, start = self._found
        if self._before.blank or self._after.blank:
            return []
        train, held = self._before, self._after
        return [
            Side("train", 0, end, train.n_bytes, train.digest.hexdigest()),
            Side("validation", start, self._end, held.n_bytes, held.digest.hexdigest()),
        ]

    def _decide(self) -> None:
        """Choose the cut once the whole window is there, and give both sides their part of it."""
        if self._found:
            return
        window = "".join(self._window)
        target = self._target - self._low
        found = next(filter(None, (_gap(window, target, border) for border in BORDERS)), None)
        end, start = found or (target - target // 4, target)
        self._found = (self._low + end, self._low + start)
        self._before.add(window[:end])
        self._after.add(window[start:])


class _Text:
    """Hash and size of text in parts."""

    def __init__(self) -> None:
        self.digest = hashlib.sha256()
        self.n_bytes = 0
        self.blank = True

    def add(self, text: str) -> None:
        raw = text.encode()
        self.digest.update(raw)
        self.n_bytes += len(raw)
        self.blank = self.blank and not text.strip()


def _gap(window: str, target: int, border: str) -> tuple[int, int] | None:
    """Ends of the last border before the target and of the first one after it."""
    before, after = window.rfind(border, 0, target), window.find(border, target)
    if before < 0 or after < 0:
        return None
    return before + len(border), after + len(border)
