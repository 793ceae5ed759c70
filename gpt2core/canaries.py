"""How exposed a planted secret is: whether the model prefers it to others of the same form.

Carlini et al., The Secret Sharer (2019), section 4: the exposure is log2 of the number of candidates minus log2 of the rank of
the canary's perplexity among them. The rank is estimated among 255 candidates drawn at random, as in their section 4.3, so the
exposure lies between 0 (no candidate is less likely) and 8 bits (none is likelier).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from gpt2core.linear_cross_entropy import IGNORED
from gpt2core.model import GPT2
from gpt2core.scoring import score_windows
from gpt2core.tokenizer import Tokenizer
from gpt2core.windows import Windows

CANDIDATES = 255
BATCH = 16


@dataclass(frozen=True)
class Exposure:
    """Of one canary: its rank among itself and the candidates (1 is the likeliest), and the bits that this gives away."""

    canary: str
    rank: int
    of: int
    exposure: float


def exposure_of(model: GPT2, tokenizer: Tokenizer, canary: str, seed: int = 0) -> Exposure:
    """Rank the canary among texts with other digits; a text longer than the context counts with its beginning."""
    random = np.random.default_rng(seed)
    texts = [canary, *(_with_other_digits(canary, random) for _ in range(CANDIDATES))]
    nats = _losses(model, [tokenizer.encode(text, special=False) for text in texts], tokenizer.end_of_text)
    rank = 1 + sum(other <= nats[0] for other in nats[1:])  # of equals the canary is the last, so nothing is overstated
    return Exposure(canary, rank, len(texts), math.log2(len(texts)) - math.log2(rank))


def _with_other_digits(canary: str, random: np.random.Generator) -> str:
    return "".join(str(random.integers(10)) if c.isascii() and c.isdigit() else c for c in canary)


def _losses(model: GPT2, texts: list[list[int]], end_of_text: int) -> list[float]:
    """Loss of each whole text in nats, each at the beginning of a document."""
    n_ctx = model.config.n_ctx
    losses = []
    for first in range(0, len(texts), BATCH):
        rows = [[end_of_text, *ids][: n_ctx + 1] for ids in texts[first : first + BATCH]]
        (scores,) = score_windows(model, [_side_by_side(rows)])
        losses += [scores.nats[scores.positions == row].sum().item() for row in range(len(rows))]
    return losses


def _side_by_side(rows: list[list[int]]) -> Windows:
    """Rows of different lengths as one batch; `positions` holds the number of the row."""
    longest = max(map(len, rows)) - 1
    inputs = torch.zeros((len(rows), longest), dtype=torch.int64)
    targets = torch.full((len(rows), longest), IGNORED)
    for number, row in enumerate(rows):
        inputs[number, : len(row) - 1], targets[number, : len(row) - 1] = _halves(row)
    return Windows(inputs, targets, torch.arange(len(rows))[:, None].expand_as(inputs))


def _halves(row: list[int]) -> tuple[Tensor, Tensor]:
    return torch.tensor(row[:-1]), torch.tensor(row[1:])
