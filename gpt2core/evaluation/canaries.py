"""How exposed a planted secret is: whether the model prefers it to others of the same form.

Carlini et al., The Secret Sharer (2019), section 4: the exposure is log2 of the number of candidates minus log2 of the rank of
the canary's perplexity among them. The rank is estimated among 255 candidates drawn at random, as in their section 4.3, so the
exposure lies between 0 (no candidate is less likely) and 8 bits (none is likelier).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from gpt2core.evaluation.likelihood import Question, score_questions
from gpt2core.model.gpt2 import GPT2
from gpt2core.text.tokenizer import Tokenizer

CANDIDATES = 255


@dataclass(frozen=True)
class Exposure:
    """Of one canary: its rank among itself and the candidates (1 is the likeliest), and the bits that this gives away."""

    canary: str
    rank: int
    of: int
    exposure: float


def exposure_of(model: GPT2, tokenizer: Tokenizer, canary: str, seed: int = 0) -> Exposure:
    """Rank the canary among texts with other digits; a text longer than the context counts with its end."""
    random = np.random.default_rng(seed)
    texts = [canary, *(_with_other_digits(canary, random) for _ in range(CANDIDATES))]
    nats = [score.nats for score in score_questions(model, (_whole(tokenizer, text) for text in texts))]
    rank = 1 + sum(other <= nats[0] for other in nats[1:])  # among equals the canary ranks last, so nothing is overstated
    return Exposure(canary, rank, len(texts), math.log2(len(texts)) - math.log2(rank))


def _with_other_digits(canary: str, random: np.random.Generator) -> str:
    return "".join(str(random.integers(10)) if c.isascii() and c.isdigit() else c for c in canary)


def _whole(tokenizer: Tokenizer, text: str) -> Question:
    """A text at the beginning of a document."""
    return Question([tokenizer.end_of_text], tokenizer.encode(text, special=False))
