"""Which token comes next, from logits: penalties, temperature, top_k, top_p, min_p, then a draw.

Shapes: B rows, V n_vocab. All filters work row by row, so a row's choice does not depend on the others.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from configs.errors import UserError

FEW = 512
"""So many of the likeliest tokens usually reach top_p; sorting all of them takes longer than the model."""


@dataclass(frozen=True)
class TokenChoice:
    """How a next token is chosen; raises UserError on values out of range. The neutral values change nothing."""

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 0.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    no_repeat_ngram_size: int = 0

    def __post_init__(self) -> None:
        if not 0.0 <= self.temperature < math.inf:
            raise UserError(f"temperature is {self.temperature}: give 0 (always the likeliest token) or more.")
        for name in ("top_k", "no_repeat_ngram_size"):
            if getattr(self, name) < 0:
                raise UserError(f"{name} is {getattr(self, name)}: give 0 (no limit) or more.")
        for name in ("top_p", "min_p"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise UserError(f"{name} is {getattr(self, name)}: give a probability from 0 (keep all) to 1.")
        if not 0.0 < self.repetition_penalty < math.inf:
            raise UserError(f"repetition_penalty is {self.repetition_penalty}: give 1 (none) or more.")

    def choose(self, logits: Tensor, uniforms: Tensor) -> Tensor:
        """Next ids int64 [B] from logits float32 [B, V] and one random number of [0, 1) a row [B]."""
        if self.temperature == 0.0:
            return logits.argmax(-1)
        temperature = max(self.temperature, torch.finfo(logits.dtype).tiny)
        scaled = (logits - logits.amax(-1, keepdim=True)) / temperature  # at most 0, so nothing overflows
        kept = keep_min_p(keep_top_p(keep_top_k(scaled, self.top_k), self.top_p), self.min_p)
        cumulative = kept.softmax(-1).cumsum(-1)
        # The first token whose sum passes the drawn share of the total, so none of probability 0.
        chosen = torch.searchsorted(cumulative, uniforms[:, None] * cumulative[:, -1:], right=True)
        return chosen.squeeze(-1).clamp(max=logits.shape[-1] - 1)


def keep_top_k(logits: Tensor, k: int) -> Tensor:
    """Logits [..., V] with everything below the k-th largest at -inf; what equals it stays. 0 keeps all."""
    if not 0 < k < logits.shape[-1]:
        return logits
    smallest = logits.topk(k).values[..., -1:]
    return logits.masked_fill(logits < smallest, -torch.inf)


def keep_top_p(logits: Tensor, p: float) -> Tensor:
    """Logits [..., V] with all but the likeliest that together reach probability p at -inf. 0 and 1 keep all.

    Sorted from the likeliest on, a token stays while those before it sum to less than p, so the one that crosses p stays;
    what equals the last one stays too.
    """
    if not 0.0 < p < 1.0:
        return logits
    total, count = logits.logsumexp(-1, keepdim=True), min(FEW, logits.shape[-1])
    while True:
        ordered = logits.topk(count).values
        probabilities = (ordered - total).exp()
        before = probabilities.cumsum(-1) - probabilities  # exclusive sum
        if count == logits.shape[-1] or bool((before[..., -1] >= p).all()):
            break
        count = logits.shape[-1]
    smallest = ordered.masked_fill(before >= p, torch.inf).amin(-1, keepdim=True)
    return logits.masked_fill(logits < smallest, -torch.inf)


def keep_min_p(logits: Tensor, p: float) -> Tensor:
    """Logits [..., V] with every token less likely than p times the likeliest one at -inf. 0 keeps all.

    Source: Nguyen et al., "Turning Up the Heat: Min-p Sampling", 2024.
    """
    if p == 0.0:
        return logits
    return logits.masked_fill(logits - logits.amax(-1, keepdim=True) < math.log(p), -torch.inf)


def penalise_repetition(logits: Tensor, seen: Tensor, penalty: float) -> Tensor:
    """Logits [..., V] of tokens that were `seen` (bool [..., V]) divided by the penalty, or multiplied where negative.

    Source: Keskar et al., "CTRL", 2019, section 4.1.
    """
    return torch.where(seen, torch.where(logits > 0, logits / penalty, logits * penalty), logits)


class SeenNgrams:
    """Which tokens would repeat an n-gram of a growing sequence."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._followers: dict[tuple[int, ...], list[int]] = {}
        self._tokens: list[int] = []

    def add(self, token: int) -> None:
        """The sequence goes on with this token."""
        self._tokens.append(token)
        if len(self._tokens) >= self._size:
            *before, last = self._tokens[-self._size :]
            self._followers.setdefault(tuple(before), []).append(last)

    def forbidden(self) -> list[int]:
        """Tokens that would close an n-gram which stands there already."""
        before = self._tokens[len(self._tokens) - self._size + 1 :] if len(self._tokens) >= self._size - 1 else None
        return [] if before is None else self._followers.get(tuple(before), [])
