"""Whether one model is better than another by more than chance, judged by documents that both have scored.

If the models were equally good, each document's gain could as well have had the other sign. So the gain of all documents is
compared with that of documents whose signs are flipped at random: an exact test for any number of documents (Fisher, The Design
of Experiments, 1935, section 21). Flipping the signs of a subset gives at least the observed sum at a margin m just where the
mean gain of that subset is at most m; so the quantiles of the means of random subsets are the bounds of the interval that
belongs to the test (Hartigan, Using Subsample Values as Typical Values, 1969). A verdict and its interval never contradict one
another, as they may with a bootstrap, which also promotes equal models too often where documents are few.

Shapes: D documents, R subsets.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np

from gpt2core.evaluation.document_scores import DocumentScores

Floats = np.ndarray[Any, np.dtype[np.float64]]
EXACT = 13
"""Up to so many documents all subsets are looked at."""
SUBSETS = 9_999
RESOLUTION = 20
"""At least so many subsets are expected beyond the bound."""
CHUNK = 1 << 22
POWER = 0.8
"""Probability of a verdict for which `documents_needed` asks."""


@dataclass(frozen=True)
class SignFlipTest:
    """The gain of a model over another one, in bits a byte, weighted by the documents' bytes."""

    gain: float
    low: float
    """With probability 1 - error the true gain is above this."""
    high: float
    """With the same probability it is below this."""
    p_value: float
    """Probability of so much gain by chance, if the true gain were the margin."""
    margin: float
    error: float
    documents: int
    mean: float
    """Of what the documents gain beyond the margin, in bits."""
    deviation: float
    """Standard deviation of that from document to document."""

    @property
    def is_better(self) -> bool:
        """Whether the gain is above the margin, the whole interval included."""
        return self.p_value <= self.error

    @property
    def needed(self) -> int | None:
        """Documents like these with which a true gain of this size is found in four of five cases; None if not known."""
        fewest = fewest_documents(self.error)
        if not self.mean > 0 or math.isinf(self.deviation):
            return None
        normal = NormalDist()
        ratio = (normal.inv_cdf(1 - self.error) + normal.inv_cdf(POWER)) * self.deviation / self.mean
        return max(fewest, math.ceil(ratio**2))


def sign_flip_test(
    before: DocumentScores, now: DocumentScores, margin: float = 0.0, error: float = 0.025, seed: int = 0
) -> SignFlipTest:
    """Test whether `now` has at least `margin` bits a byte less loss than `before` on the documents that both have scored.

    Losses that are no numbers give no gain and a p-value of 1.
    """
    bits, weights = paired_gains(before, now)
    if not len(bits) or not np.isfinite(bits).all():
        return SignFlipTest(math.nan, -math.inf, math.inf, 1.0, margin, error, len(bits), math.nan, math.nan)
    beyond = bits - margin * weights
    means = subset_means(bits, weights, error, seed)
    count = len(means) + 1  # and the empty subset, whose mean may be anything
    p_value = (1 + np.count_nonzero(means <= margin)) / count
    low, high = _bounds(np.sort(means), error)
    deviation = float(beyond.std(ddof=1)) if len(beyond) > 1 else math.inf
    gain = float(bits.sum() / weights.sum())
    return SignFlipTest(gain, low, high, float(p_value), margin, error, len(bits), float(beyond.mean()), deviation)


def paired_gains(before: DocumentScores, now: DocumentScores) -> tuple[Floats, Floats]:
    """[D] bits that each document gains, and [D] its bytes. Documents that only one of the two has scored are left out.

    The first token of a text is not predicted, so models of different vocabularies may have scored a few bytes more or less of
    a document: the gain is that of their rates.
    """
    _, first, second = np.intersect1d(before.doc_ids, now.doc_ids, return_indices=True)
    scored = (before.bytes[first] > 0) & (now.bytes[second] > 0)
    first, second = first[scored], second[scored]
    rates = before.nats[first] / before.bytes[first] - now.nats[second] / now.bytes[second]
    weights = (before.bytes[first] + now.bytes[second]) / 2
    return rates * weights / math.log(2), weights


def subset_means(bits: Floats, weights: Floats, error: float = 0.025, seed: int = 0) -> Floats:
    """Mean gains of all subsets of few documents, or of R random ones of many: [R], the empty one left out."""
    documents = len(bits)
    values = np.stack([bits, weights], axis=1)
    if documents <= EXACT:
        numbers = np.arange(1, 1 << documents)
        sums = (numbers[:, None] >> np.arange(documents) & 1).astype(float) @ values
    else:
        random, wanted = np.random.default_rng(seed), max(SUBSETS, math.ceil(RESOLUTION / error))
        rows = max(1, CHUNK // documents)
        sizes = [min(rows, wanted - start) for start in range(0, wanted, rows)]
        sums = np.concatenate([np.einsum("rd,dk->rk", _random_subsets(random, size, documents), values) for size in sizes])
        sums = sums[sums[:, 1] > 0]
    means: Floats = sums[:, 0] / sums[:, 1]
    return means


def _random_subsets(random: np.random.Generator, count: int, documents: int) -> Floats:
    """[count, D] of ones and zeros."""
    drawn = random.integers(0, 256, (count, math.ceil(documents / 8)), dtype=np.uint8)
    return np.unpackbits(drawn, axis=1, count=documents).astype(np.float64)


def fewest_documents(error: float) -> int:
    """With fewer documents not even a gain in every one of them is beyond chance."""
    return math.ceil(-math.log2(error))


def error_of_attempt(total: float, attempt: int) -> float:
    """The part of an error rate that attempt number 1, 2, 3, ... may spend; all of them together spend the whole."""
    return total / (attempt * (attempt + 1))


def _bounds(means: Floats, error: float) -> tuple[float, float]:
    """The smallest margin that is not rejected, and the mirrored bound, of sorted subset means."""
    beyond = math.floor(error * (len(means) + 1)) - 1  # so many means may lie at the margin or below, the empty one counted
    if beyond < 0:
        return -math.inf, math.inf
    return float(means[beyond]), float(means[-1 - beyond])
