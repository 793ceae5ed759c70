"""What generated text looks like from outside, by counting: variety, repetition, loops, length, whether it ends.

A sample is the generated ids alone, without prompt and end of text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

Ids = Sequence[int]
REPEATED = 4
"""Length of the n-grams whose repetition is counted."""
TIMES = 3
LOOP = 12
"""A sample loops if it ends with a passage that stands there three times, in at least so many tokens together."""


@dataclass(frozen=True)
class SampleQuality:
    """Figures over all samples of one evaluation."""

    distinct_1: float
    """Share of all tokens that are different ones (Li et al., A Diversity-Promoting Objective Function, 2016)."""
    distinct_2: float
    """The same of pairs of tokens."""
    distinct_3: float
    repetition: float
    """Share of 4-grams that stood in the same sample before (seq-rep-4 of Welleck et al., Neural Text Generation, 2020)."""
    loops: float
    """Share of samples that end in a loop."""
    length: float
    """Mean number of tokens."""
    ended: float
    """Share of samples that ended by themselves, before the limit."""


def sample_quality(samples: Sequence[Ids], ended: Sequence[bool]) -> SampleQuality | None:
    """Figures of the samples, `ended` saying of each whether it ended by itself; None without a sample."""
    if not samples:
        return None
    count = len(samples)
    return SampleQuality(
        distinct(samples, 1),
        distinct(samples, 2),
        distinct(samples, 3),
        sum(map(repetition, samples)) / count,
        sum(map(loops, samples)) / count,
        sum(map(len, samples)) / count,
        sum(ended) / count,
    )


def distinct(samples: Sequence[Ids], n: int) -> float:
    """Different n-grams of all samples together over all n-grams; 0 where there is none."""
    grams = [gram for sample in samples for gram in _ngrams(sample, n)]
    return len(set(grams)) / len(grams) if grams else 0.0


def repetition(sample: Ids) -> float:
    """Share of 4-grams that stood in the sample before; 0 where there is none."""
    grams = _ngrams(sample, REPEATED)
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


def loops(sample: Ids) -> bool:
    """Whether the sample ends with the same passage three times or more, at least 12 tokens together."""
    tail = list(sample)[::-1]
    for period in range(1, len(tail) // TIMES + 1):
        repeated = max(TIMES * period, LOOP)
        if repeated <= len(tail) and tail[period:repeated] == tail[: repeated - period]:
            return True
    return False


def _ngrams(sample: Ids, n: int) -> list[tuple[int, ...]]:
    return [tuple(sample[start : start + n]) for start in range(len(sample) - n + 1)]
