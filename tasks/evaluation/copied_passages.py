"""Which documents of the training text samples repeat word for word."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from gpt2core.evaluation.memorisation import Copies, open_copy_index
from gpt2core.store.document_stream import split_of_store
from gpt2core.store.token_store import TokenStore
from gpt2core.text.tokenizer import Tokenizer
from tasks.workspace.folders import Workspace


@dataclass(frozen=True)
class CopiedPassage:
    """The longest passage that a sample shares with the training text, and the document that it stands in."""

    sample: int
    """Which sample, 0 being the first."""
    tokens: int
    text: str
    source: str
    doc_id: int


@dataclass(frozen=True)
class CopiedText:
    """What all samples of one evaluation share with the training text."""

    longest: int
    """Tokens of the longest passage; 0 where none has 15."""
    share: float
    """Share of the samples' windows of 50 tokens that stand in the training text; 0 where no sample is so long."""
    passages: list[CopiedPassage]


class CopySearch:
    """Looks samples up in the training text of a store; the index is made when it is first needed."""

    def __init__(self, store: TokenStore, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._documents = split_of_store(store, tokenizer, "train")
        self._index = open_copy_index(Workspace.current().copy_indexes / store.hash, self._documents.stream)

    def look(self, samples: Sequence[Sequence[int]]) -> CopiedText:
        """Search the samples (ids without prompt and end of text)."""
        found = [self._index.find(sample) for sample in samples]
        windows = sum(copies.windows for copies in found)
        share = sum(copies.found for copies in found) / windows if windows else 0.0
        passages = [self._passage(number, samples[number], copies) for number, copies in enumerate(found)]
        known = [passage for passage in passages if passage]
        return CopiedText(max((passage.tokens for passage in known), default=0), share, known)

    def _passage(self, number: int, sample: Sequence[int], copies: Copies) -> CopiedPassage | None:
        if (passage := copies.longest) is None:
            return None
        document = int(self._documents.documents_at(passage.position))
        text = self._tokenizer.decode(sample[passage.start : passage.start + passage.length])
        source, doc_id = self._documents.sources[document], int(self._documents.doc_ids[document])
        return CopiedPassage(number, passage.length, text, source, doc_id)
