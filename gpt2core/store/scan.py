"""The first reading of a corpus: each document's size and hash, and what is worth telling about the text."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any, Protocol

import numpy as np

from configs.errors import UserError
from configs.schema import DataSettings
from gpt2core.store.index import CorpusIndex, DocumentFacts, Findings, FindingsInTheMaking, survey_key
from gpt2core.text.documents import pieces_of
from gpt2core.text.pieces import Piece, Tally
from gpt2core.text.scripts import count_scripts
from gpt2core.text.sources import SourceFile

SAID = 12
"""Sentences of one kind about a whole corpus."""


class Vocabulary(Protocol):
    """What a survey needs of a tokenizer: files of ids are known by the text that the ids stand for."""

    @property
    def sha256(self) -> str:
        """Hash of everything that decides about ids."""

    @property
    def token_bytes(self) -> dict[int, bytes]:
        """The bytes that each id stands for."""

    @property
    def n_vocab(self) -> int:
        """Number of ids."""


def survey_file(file: SourceFile, settings: DataSettings, vocabulary: Vocabulary, index: CorpusIndex) -> tuple[int, Findings]:
    """Number of the file's survey in the index, made if there is none, and its findings. Raises UserError."""
    if found := index.survey(file, settings, vocabulary.sha256):
        return found
    reading = _Reading(file, settings, vocabulary)
    number = index.add_survey(survey_key(file, settings, vocabulary.sha256), reading.documents(), reading)
    return number, reading.findings()


def ids_to_bytes(ids: np.ndarray[Any, Any], vocabulary: Vocabulary, shown: str) -> bytes:
    """The text behind ids of a file; raises UserError with both numbers where an id is not in the vocabulary."""
    known = vocabulary.token_bytes
    try:
        return b"".join([known[token] for token in ids.tolist()])
    except KeyError as error:
        raise UserError(
            f"{shown} holds the id {error.args[0]:,}, but the vocabulary has {vocabulary.n_vocab:,} entries: "
            "set tokenizer.source to the vocabulary that the file was encoded with."
        ) from None


class _Reading(FindingsInTheMaking):
    """One pass over a file."""

    def __init__(self, file: SourceFile, settings: DataSettings, vocabulary: Vocabulary) -> None:
        self._file = file
        self._settings = settings
        self._vocabulary = vocabulary
        self._tally = Tally()
        self._documents = self._empty = self._longest = self._line = 0
        self._scripts = Counter[str]()

    def documents(self) -> Iterator[DocumentFacts]:
        """Facts of each document with text in it."""
        digest, n_bytes, n_characters, blank = hashlib.sha256(), 0, 0, True
        for piece in pieces_of(self._file, self._settings, self._tally):
            raw = self._note(piece)
            digest.update(raw)
            n_bytes += len(raw)
            n_characters += len(piece.text if piece.ids is None else piece.ids)
            blank = blank and not raw.strip() and not piece.text.strip()
            if piece.last:
                self._line = 0
                if blank:
                    self._empty += 1
                else:
                    self._documents += 1
                    yield DocumentFacts(piece.number, piece.source, n_bytes, n_characters, digest.digest())
                digest, n_bytes, n_characters, blank = hashlib.sha256(), 0, 0, True

    def findings(self) -> Findings:
        """What was found so far."""
        tally = self._tally
        said = tuple(tally.notes), tuple(tally.warnings)
        return Findings(self._documents, self._empty, tally.decode_errors, self._longest, dict(self._scripts), *said)

    def _note(self, piece: Piece) -> bytes:
        if piece.ids is not None:
            return ids_to_bytes(piece.ids, self._vocabulary, self._file.location)
        self._scripts.update(count_scripts(piece.text))
        raw = piece.text.encode()
        self._note_lines(piece.text, raw)
        return raw

    def _note_lines(self, text: str, raw: bytes) -> None:
        ascii_only = len(raw) == len(text)
        characters = np.frombuffer(raw, "u1") if ascii_only else np.frombuffer(text.encode("utf-32-le"), "<u4")
        ends = np.flatnonzero(characters == ord("\n"))
        if len(ends):
            longest_inside = int(np.diff(ends).max(initial=1)) - 1
            self._longest = max(self._longest, self._line + int(ends[0]), longest_inside)
            self._line = -1 - int(ends[-1])
        self._line += len(text)
        self._longest = max(self._longest, self._line)


def total(files: Iterable[SourceFile], findings: Iterable[Findings]) -> Findings:
    """The findings of a whole corpus; what is said of a file has its name before it."""
    every = list(findings)
    named = list(zip(files, every, strict=True))
    scripts = sum((Counter(one.scripts) for one in every), Counter[str]())
    return Findings(
        documents=sum(one.documents for one in every),
        empty=sum(one.empty for one in every),
        decode_errors=sum(one.decode_errors for one in every),
        longest_line=max((one.longest_line for one in every), default=0),
        scripts=dict(sorted(scripts.items())),
        notes=_shortened([f"{file.source}: {note}" for file, one in named for note in one.notes]),
        warnings=_shortened([f"{file.source}: {warning}" for file, one in named for warning in one.warnings]),
    )


def _shortened(lines: list[str]) -> tuple[str, ...]:
    """The first lines: a corpus may have a million files."""
    more = len(lines) - SAID
    return (*lines[:SAID], f"and {more:,} more of this kind") if more > 1 else tuple(lines)
