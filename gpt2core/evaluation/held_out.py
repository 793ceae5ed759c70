"""How well a model predicts held-out text: figures over all of it, by source, by length, and how calibrated it is."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from gpt2core.evaluation.document_scores import DocumentScores
from gpt2core.evaluation.scoring import TokenScores, score_windows
from gpt2core.evaluation.windows import held_out_windows
from gpt2core.model.gpt2 import GPT2
from gpt2core.store.document_stream import DocumentStream, Integers

LENGTHS = (64, 256, 1024, 4096)
"""Tokens up to which a document counts as of one length."""
BINS = 15
"""Equal parts of [0, 1] in which confidence is compared with accuracy."""
SOURCES = 100
"""Sources reported one by one, those with the most tokens; the others are together."""


@dataclass(frozen=True)
class Evaluation:
    """Mean loss in nats a token, and what follows from it; bits per byte compare models with different vocabularies."""

    val_loss: float
    perplexity: float
    bits_per_byte: float
    val_tokens: int


@dataclass(frozen=True)
class HeldOutFigures(Evaluation):
    """Also: the share of tokens that were the first guess, and the expected calibration error of those guesses."""

    accuracy: float
    calibration_error: float


@dataclass(frozen=True)
class HeldOutPart:
    """The documents of one source or of one length."""

    name: str
    documents: int
    val_tokens: int
    val_loss: float
    bits_per_byte: float
    accuracy: float


@dataclass(frozen=True)
class ConfidenceBin:
    """First guesses whose probability was in (low, high]: how many, their mean probability, and how many were right."""

    low: float
    high: float
    tokens: int
    confidence: float
    accuracy: float


@dataclass(frozen=True)
class EvaluationReport:
    """Everything that one pass over the text has found."""

    figures: HeldOutFigures
    by_source: list[HeldOutPart]
    by_length: list[HeldOutPart]
    calibration: list[ConfidenceBin]
    documents: DocumentScores


def evaluate(
    model: GPT2, text: DocumentStream, batch_size: int = 8, max_windows: int | None = None, stride: int | None = None
) -> EvaluationReport:
    """Score the text (see `held_out_windows` for max_windows and stride); the model's mode is left as it was."""
    documents, calibration = DocumentScores.empty(text), _Calibration()
    windows = held_out_windows(text.stream, model.config.n_ctx, batch_size, max_windows, stride)
    for scores in score_windows(model, windows):
        documents.add(text, scores)
        calibration.add(scores)
    return EvaluationReport(
        _figures(documents, calibration.error()),
        _parts(documents, *_by_source(text, documents)),
        _parts(documents, *_by_length(text)),
        calibration.bins(),
        documents,
    )


def figures_of(nats: float, tokens: int, n_bytes: int) -> Evaluation:
    """The figures of a sum of losses over so many tokens, which stand for so many bytes."""
    loss = nats / tokens
    return Evaluation(loss, math.exp(min(loss, 700.0)), nats / math.log(2) / max(1, n_bytes), tokens)


def _figures(documents: DocumentScores, calibration_error: float) -> HeldOutFigures:
    tokens = int(documents.tokens.sum())
    found = figures_of(float(documents.nats.sum()), tokens, int(documents.bytes.sum()))
    accuracy = int(documents.right.sum()) / tokens
    return HeldOutFigures(found.val_loss, found.perplexity, found.bits_per_byte, tokens, accuracy, calibration_error)


def _by_source(text: DocumentStream, documents: DocumentScores) -> tuple[list[str], Integers]:
    """Names of the parts, and the part of each document."""
    names, part = np.unique(np.array(text.sources, dtype=object).astype(str), return_inverse=True)
    if len(names) <= SOURCES:
        return names.tolist(), part
    largest = np.argsort(-np.bincount(part, documents.tokens), kind="stable")[: SOURCES - 1]
    renamed = np.full(len(names), SOURCES - 1)
    renamed[largest] = np.arange(SOURCES - 1)
    return [*names[largest].tolist(), f"{len(names) - SOURCES + 1:,} others"], renamed[part]


def _by_length(text: DocumentStream) -> tuple[list[str], Integers]:
    lows = [1, *(length + 1 for length in LENGTHS)]
    names = [f"{low}-{high}" for low, high in zip(lows, LENGTHS, strict=False)]
    return [*names, f"{lows[-1]}+"], np.digitize(text.lengths, LENGTHS, right=True)


def _parts(documents: DocumentScores, names: list[str], part: Integers) -> list[HeldOutPart]:
    """The parts that have a scored token, in the order of their names."""
    scored = documents.tokens > 0

    def total(values: Any) -> list[float]:
        sums: list[float] = np.bincount(part, values, len(names)).tolist()
        return sums

    sums = zip(names, *map(total, (scored, documents.tokens, documents.nats, documents.bytes, documents.right)), strict=True)
    found = []
    for name, count, tokens, nats, n_bytes, right in sums:
        if tokens:
            figures = figures_of(nats, int(tokens), int(n_bytes))
            found.append(HeldOutPart(name, int(count), int(tokens), figures.val_loss, figures.bits_per_byte, right / tokens))
    return found


class _Calibration:
    """Expected calibration error: the distance of accuracy from confidence in each bin, weighted by the bin's tokens.

    See Guo et al., On Calibration of Modern Neural Networks (2017), equation 3, with 15 bins of equal width.
    """

    def __init__(self) -> None:
        self._sums = np.zeros((3, BINS))  # tokens, confidence, right

    def add(self, scores: TokenScores) -> None:
        confidence = scores.confidence.numpy()
        bins = np.clip(np.ceil(np.nan_to_num(confidence) * BINS).astype(np.int64) - 1, 0, BINS - 1)
        for row, values in enumerate((None, confidence, scores.right.numpy())):
            self._sums[row] += np.bincount(bins, values, BINS)

    def error(self) -> float:
        tokens, confidence, right = self._sums
        return float(np.abs(confidence - right).sum() / tokens.sum())

    def bins(self) -> list[ConfidenceBin]:
        return [
            ConfidenceBin(number / BINS, (number + 1) / BINS, int(tokens), confidence / tokens, right / tokens)
            for number, (tokens, confidence, right) in enumerate(self._sums.T.tolist())
            if tokens
        ]
