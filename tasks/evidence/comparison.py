"""Two measured models side by side: the paired test at what this attempt may spend, and the gain by source."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from gpt2core.evaluation.document_scores import DocumentScores
from gpt2core.evaluation.sign_flips import SignFlipTest, error_of_attempt, fewest_documents, sign_flip_test
from gpt2core.text.documents import Document
from tasks.evidence.evidence import PairedOutcome, SourceGain

SOURCES = 20
"""Sources shown, those with the most documents."""
SHOWN_ERROR = 0.025
"""On either side of the intervals by source, which decide nothing."""


def outcome_of(test: SignFlipTest, attempt: int, by_source: list[SourceGain]) -> PairedOutcome:
    """The test as it stands in a record."""
    return PairedOutcome(
        gain=test.gain,
        low=test.low,
        high=test.high,
        p_value=test.p_value,
        margin=test.margin,
        error=test.error,
        attempt=attempt,
        documents=test.documents,
        fewest=fewest_documents(test.error),
        needed=test.needed,
        by_source=by_source,
    )


def test_at_attempt(rival: DocumentScores, candidate: DocumentScores, margin: float, rate: float, attempt: int) -> SignFlipTest:
    """Whether the candidate is better, at the part of the error rate that this attempt may spend."""
    return sign_flip_test(rival, candidate, margin, error_of_attempt(rate, attempt))


def gains_by_source(rival: DocumentScores, candidate: DocumentScores, documents: Sequence[Document]) -> list[SourceGain]:
    """The gain in each source that has several documents, largest sources first."""
    names, part = np.unique(
        np.array([document.source for document in documents], dtype=object).astype(str), return_inverse=True
    )
    if len(names) < 2:
        return []
    found = []
    for number in np.argsort(-np.bincount(part), kind="stable")[:SOURCES]:
        chosen = np.flatnonzero(part == number)
        test = sign_flip_test(_only(rival, chosen), _only(candidate, chosen), error=SHOWN_ERROR)
        gain = SourceGain(name=names[number], documents=test.documents, gain=test.gain, low=test.low, high=test.high)
        found.append(gain)
    return found


def _only(scores: DocumentScores, chosen: np.ndarray[tuple[int], np.dtype[np.int64]]) -> DocumentScores:
    """Some of the documents; their ids are their places."""
    doc_ids, nats, tokens = scores.doc_ids[chosen], scores.nats[chosen], scores.tokens[chosen]
    return DocumentScores(doc_ids, nats, tokens, scores.bytes[chosen], scores.right[chosen])
