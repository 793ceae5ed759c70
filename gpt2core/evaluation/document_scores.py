"""Losses by document: kept beside the figures, so that two models can be compared on the same documents.

The interval of a difference is a paired bootstrap: documents are drawn with replacement, the same ones for both models
(Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13; Koehn, Statistical Significance Tests, 2004).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from configs.errors import UserError
from gpt2core.evaluation.scoring import TokenScores
from gpt2core.machine.durable import fsync, named_write_errors
from gpt2core.store.document_stream import DocumentStream, Integers

Floats = np.ndarray[Any, np.dtype[np.float64]]
Unit = Literal["tokens", "bytes"]
RESAMPLES = 1000
COVERAGE = 0.95


@dataclass(frozen=True)
class DocumentScores:
    """Sums over the scored tokens of each of D documents."""

    doc_ids: Integers
    nats: Floats
    tokens: Integers
    bytes: Integers
    right: Integers
    """Tokens that were the model's first guess."""

    @classmethod
    def empty(cls, text: DocumentStream) -> DocumentScores:
        """No token scored yet."""
        zeros = [np.zeros(len(text.doc_ids), dtype=np.int64) for _ in range(3)]
        return cls(text.doc_ids, np.zeros(len(text.doc_ids)), *zeros)

    def add(self, text: DocumentStream, scores: TokenScores) -> None:
        """Count these tokens in."""
        documents = text.documents_at(scores.positions.numpy())
        np.add.at(self.nats, documents, scores.nats.numpy())
        np.add.at(self.tokens, documents, 1)
        np.add.at(self.bytes, documents, text.byte_lengths[scores.ids.numpy()])
        np.add.at(self.right, documents, scores.right.numpy())

    def save(self, path: Path) -> None:
        """Write a Parquet file with a row a document, replacing it as a whole."""
        columns = ("doc_ids", "nats", "tokens", "bytes", "right")
        table = pa.table({name.removesuffix("_ids"): getattr(self, name) for name in columns})
        temporary = path.with_name(path.name + ".tmp")
        with named_write_errors(path):
            pq.write_table(table, temporary)
            fsync(temporary)
            temporary.replace(path)

    @classmethod
    def load(cls, path: Path) -> DocumentScores:
        """Raises UserError where the file is missing or damaged."""
        try:
            table = pq.read_table(path)
            return cls(*(table[name].to_numpy() for name in ("doc", "nats", "tokens", "bytes", "right")))
        except (OSError, KeyError, pa.ArrowException) as error:
            raise UserError(f"{path} cannot be read ({error}): evaluate again.") from error


@dataclass(frozen=True)
class Gain:
    """How much less loss a model has than the one before, and the bounds between which 95% of the resamples lie."""

    gain: float
    low: float
    high: float


def paired_gain(before: DocumentScores, now: DocumentScores, unit: Unit = "tokens", seed: int = 0) -> Gain | None:
    """Loss of `before` minus loss of `now`: nats a token, or bits a byte, which also compares different vocabularies.

    Documents that only one of the two has seen are left out; None where fewer than two are left.
    """
    _, first, second = np.intersect1d(before.doc_ids, now.doc_ids, return_indices=True)
    seen = (before.tokens[first] > 0) & (now.tokens[second] > 0)
    if (count := np.count_nonzero(seen)) < 2:
        return None
    rows_before, rows_now = first[seen], second[seen]
    size_before, size_now = getattr(before, unit)[rows_before], getattr(now, unit)[rows_now]
    nats_before, nats_now = before.nats[rows_before], now.nats[rows_now]
    scale = 1.0 if unit == "tokens" else 1.0 / math.log(2)

    def difference(weights: Floats) -> float:
        """The gain where document d is there weights[d] times."""
        then, since = weights @ nats_before / max(weights @ size_before, 1), weights @ nats_now / max(weights @ size_now, 1)
        return float(then - since) * scale

    random = np.random.default_rng(seed)
    resampled = [
        difference(np.bincount(random.integers(0, count, count), minlength=count).astype(float)) for _ in range(RESAMPLES)
    ]
    low, high = np.quantile(resampled, [(1 - COVERAGE) / 2, (1 + COVERAGE) / 2])
    return Gain(difference(np.ones(count)), float(low), float(high))
