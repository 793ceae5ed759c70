"""Which text is for training and which is held out for validation.

The rule, the same on any machine and in any order of the documents:

1. A document goes whole to one side, decided by its own hash. So it stays there when other documents arrive, and the same
   text never stands on both sides.
2. A document larger than the whole validation part should be cannot go there. It is cut: its end is held out.
3. If that leaves the held-out share below half or above twice of what was asked for, there are too few documents for
   chance to be fair, and every document is cut.

A cut falls between paragraphs (else lines, words, or anywhere), and the paragraph in between is left out, so that the
held-out text does not go on where the training text ends.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Literal

from configs.errors import UserError
from gpt2core.documents import Document, is_empty

Split = Literal["train", "validation"]
SPLITS: tuple[Split, ...] = ("train", "validation")
BORDERS = ("\n\n", "\n", " ")


@dataclass(frozen=True)
class Passage:
    """A document, or one side of a cut one, with the split it belongs to."""

    source: str
    text: str
    split: Split
    sha256: str
    n_bytes: int


@dataclass(frozen=True)
class SplitRule:
    """Decides for each document on its own."""

    validation: float
    """Share of the bytes to hold out."""
    cut_above: int
    """Documents of more bytes than this are cut."""

    def place(self, document: Document, digest: bytes, n_bytes: int) -> Iterator[Passage]:
        """The document whole, or both sides of it."""
        parts = _cut(document.text, self.validation) if n_bytes > self.cut_above else None
        if parts is None:
            whole: Split = "validation" if n_bytes <= self.cut_above and held_out(digest, self.validation) else "train"
            yield Passage(document.source, document.text, whole, digest.hex(), n_bytes)
            return
        for split, text in zip(SPLITS, parts, strict=True):
            raw = text.encode()
            yield Passage(document.source, text, split, hashlib.sha256(raw).hexdigest(), len(raw))


@dataclass
class Survey:
    """What a first reading of the corpus found."""

    sizes: array[int] = field(default_factory=lambda: array("q"))
    """Bytes of each document that is kept."""
    held_out: bytearray = field(default_factory=bytearray)
    """Whether the hash of each holds it out."""
    empty: int = 0
    duplicates: int = 0

    @property
    def n_bytes(self) -> int:
        """Bytes of all documents that are kept."""
        return sum(self.sizes)

    def rule(self, validation: float) -> SplitRule:
        """The rule that suits the sizes found."""
        largest = int(validation * self.n_bytes)
        cut = sum(size for size in self.sizes if size > largest)
        whole = sum(size for size, out in zip(self.sizes, self.held_out, strict=True) if out and size <= largest)
        share = (whole + validation * cut) / max(1, self.n_bytes)
        fair = validation / 2 <= share <= validation * 2
        return SplitRule(validation, largest if fair else 0)


def survey_documents(documents: Iterable[Document], validation: float) -> Survey:
    """Read everything once; raises UserError where there is no text at all."""
    survey, seen = Survey(), set[bytes]()
    for document in documents:
        if is_empty(document):
            survey.empty += 1
            continue
        digest, n_bytes = fingerprint(document)
        if digest in seen:
            survey.duplicates += 1
            continue
        seen.add(digest)
        survey.sizes.append(n_bytes)
        survey.held_out.append(held_out(digest, validation))
    if not survey.sizes:
        raise UserError("There is no text in data.source: give a file with text in it.")
    return survey


def place_documents(documents: Iterable[Document], rule: SplitRule) -> Iterator[Passage]:
    """Passages in the order of the documents; a text that was there before is dropped."""
    seen = set[bytes]()
    for document in documents:
        if is_empty(document):
            continue
        digest, n_bytes = fingerprint(document)
        if digest in seen:
            continue
        seen.add(digest)
        for passage in rule.place(document, digest, n_bytes):
            own = bytes.fromhex(passage.sha256)
            # The side of a cut document can equal another document.
            if own == digest or own not in seen:
                seen.add(own)
                yield passage


def fingerprint(document: Document) -> tuple[bytes, int]:
    """SHA-256 and number of bytes of the text in UTF-8."""
    raw = document.text.encode()
    return hashlib.sha256(raw).digest(), len(raw)


def held_out(digest: bytes, validation: float) -> bool:
    """Whether the hash, read as a number from 0 to 1, lies below the share."""
    return int.from_bytes(digest[:8], "big") < validation * 2**64


def _cut(text: str, validation: float) -> tuple[str, str] | None:
    """Training and held-out side with a gap between, or None for a text too short to cut."""
    target = round(len(text) * (1 - validation))
    reach = max(1, int(len(text) * validation / 2))
    low, high = target - reach, min(len(text), target + reach)
    end, start = next(
        filter(None, (_gap(text, low, target, high, border) for border in BORDERS)), (target - reach // 4, target)
    )
    parts = text[:end], text[start:]
    return parts if all(part.strip() for part in parts) else None


def _gap(text: str, low: int, target: int, high: int, border: str) -> tuple[int, int] | None:
    """Ends of the last border before the target and of the first one after it, inside [low, high]."""
    before, after = text.rfind(border, low, target), text.find(border, target, high)
    if before < 0 or after < 0:
        return None
    return before + len(border), after + len(border)
