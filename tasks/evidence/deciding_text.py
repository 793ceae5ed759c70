"""The frozen text that candidate and rival are scored on, and whether either has learnt from it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow.compute as pc

from configs.errors import UserError
from configs.promotion import PromotionSettings
from configs.schema import DataSettings
from gpt2core.store.document_stream import split_of_store
from gpt2core.store.report import resembling
from gpt2core.store.splitting import Split
from gpt2core.store.token_store import TokenStore
from gpt2core.text.documents import Document, find_files, read_documents
from gpt2core.text.tokenizer import Tokenizer, load_tokenizer
from tasks.evidence.evidence import DecidingText
from tasks.evidence.learnt_text import hashes_of, learnt_hashes, store_here


@dataclass(frozen=True)
class Learner:
    """A model with the texts that it, and the models that it comes from, were trained beside."""

    title: str
    folder: Path
    """With its vocabulary."""
    store: str | None
    ancestors: tuple[str, ...] = ()
    """Stores of the models it comes from."""

    @cached_property
    def own_store(self) -> TokenStore | None:
        """The store of its own training, if it is here."""
        return store_here(self.store)

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """Its vocabulary."""
        return load_tokenizer(self.folder)

    def hashes(self, split: Split) -> set[str]:
        """Of the documents of one side of its own store."""
        return hashes_of(self.own_store, split) if self.own_store else set()

    def learnt_from(self) -> set[str]:
        """Hashes of the documents that it or an ancestor was trained on, as far as that is known here."""
        return self.hashes("train").union(*map(learnt_hashes, self.ancestors))


@dataclass(frozen=True)
class FrozenText:
    """The documents in the order of their hashes, and what is to be said about them."""

    documents: list[Document]
    facts: DecidingText


class NoTextError(UserError):
    """There is no text to decide on; the sentence says why and what helps."""


def freeze_text(
    settings: PromotionSettings, candidate: Learner, rival: Learner | None, reading: DataSettings | None = None
) -> FrozenText:
    """The text that both have not learnt from, as far as can be known.

    promote.text is read as `reading` says, so that the same file gives the same documents as in the candidate's own run.
    `rival` is None where it has no training of its own (an untrained model). Raises NoTextError where there is no such text,
    and UserError where promote.text names none.
    """
    if settings.text:
        hashed, origin = _given(settings.text, reading or DataSettings()), "promote.text"
        if candidate.own_store is None:
            raise NoTextError(
                f"The text that the {candidate.title} was trained on is not here, so nobody can say whether it has seen "
                "promote.text: promote where its run was trained."
            )
    else:
        hashed, origin = _held_out(candidate, rival)
    chosen, left_out = _limited(hashed, settings.text_limit)
    learners = [candidate, *([rival] if rival else [])]
    facts = DecidingText(
        origin=origin,
        documents=len(chosen),
        bytes=sum(len(document.text.encode()) for _, document in chosen),
        sha256=hashlib.sha256("\n".join(sha256 for sha256, _ in chosen).encode()).hexdigest(),
        left_out=left_out,
        trained_on={
            one.title: sum(sha256 in known for sha256, _ in chosen) for one in learners for known in [one.learnt_from()]
        },
        near_duplicates={one.title: _near(chosen, one) for one in learners if one.own_store},
        unknown=[one.title for one in learners if one.own_store is None],
    )
    return FrozenText([document for _, document in chosen], facts)


def _given(text: list[str], reading: DataSettings) -> dict[str, Document]:
    data = reading.model_copy(update={"source": text})
    return {hashlib.sha256(one.text.encode()).hexdigest(): one for one in read_documents(find_files(data), data)}


def _held_out(candidate: Learner, rival: Learner | None) -> tuple[dict[str, Document], str]:
    """What was held out from both; of a rival that was not trained here, what was held out from the candidate."""
    for one in (candidate, rival) if rival and rival.store else (candidate,):
        if one is not None and one.own_store is None:
            raise NoTextError(
                f"The text that was held out from the {one.title} is no longer here: give promote.text, documents that no "
                "model has learnt from."
            )
    assert candidate.own_store
    wanted, origin = candidate.hashes("validation"), "held out from the candidate"
    if rival and rival.own_store:
        wanted, origin = wanted & rival.hashes("validation"), f"held out from candidate and {rival.title}"
    if not wanted:
        raise NoTextError(f"No document was {origin}: give promote.text, documents that no model has learnt from.")
    return _read(candidate.own_store, candidate.tokenizer, wanted), origin


def _read(store: TokenStore, tokenizer: Tokenizer, wanted: set[str]) -> dict[str, Document]:
    """Held-out documents of a store by their hash."""
    table = store.documents()
    table = table.filter(pc.equal(table["split"], "validation")).sort_by("token_offset")
    text = split_of_store(store, tokenizer)
    rows = zip(table["sha256"].to_pylist(), text.sources, text.starts.tolist(), text.lengths.tolist(), strict=True)
    found = {}
    for sha256, source, start, length in rows:
        if sha256 in wanted:
            ids = np.empty(length - 1, dtype=np.int64)
            text.stream.read(start, length - 1, ids)
            found[sha256] = Document(source, 0, tokenizer.decode(ids.tolist()))
    return found


def _limited(hashed: dict[str, Document], limit: int) -> tuple[list[tuple[str, Document]], int]:
    """Documents in the order of their hashes up to so many bytes, at least one, and how many are left out."""
    chosen: list[tuple[str, Document]] = []
    size = 0
    for sha256, document in sorted(hashed.items(), key=lambda pair: pair[0]):
        size += len(document.text.encode())
        if chosen and size > limit:
            break
        chosen.append((sha256, document))
    return chosen, len(hashed) - len(chosen)


def _near(chosen: Sequence[tuple[str, Document]], learner: Learner) -> int:
    assert learner.own_store
    ids = (learner.tokenizer.encode(document.text, special=False) for _, document in chosen)
    return sum(resembling(learner.own_store, ids))
