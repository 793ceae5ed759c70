"""What a model makes of each single token: its loss, whether it was the likeliest, and how sure the model was of that one.

Shapes: N tokens, C width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields

import torch
from torch import Tensor
from torch.nn import functional as F

from configs.errors import UserError
from gpt2core.evaluation.windows import Windows
from gpt2core.machine.memory import is_out_of_memory
from gpt2core.model.gpt2 import GPT2
from gpt2core.model.linear_cross_entropy import ACCELERATOR_CHUNK, CHUNK, IGNORED, PADDING


@dataclass(frozen=True)
class TokenScores:
    """Scores of N tokens, all on the CPU."""

    positions: Tensor
    """int64 [N], place in the stream."""
    ids: Tensor
    """int64 [N], the token itself."""
    nats: Tensor
    """float64 [N], minus the logarithm of its probability."""
    right: Tensor
    """bool [N], whether it was the likeliest token (the lowest id among equals)."""
    confidence: Tensor
    """float64 [N], probability of the likeliest token."""


@torch.no_grad()
def score_windows(model: GPT2, windows: Iterable[Windows]) -> Iterator[TokenScores]:
    """Scores of the targets of each batch of windows, in order. The model's mode is left as it was.

    A batch for which memory does not suffice is scored in halves; raises UserError where a single window does not fit.
    """
    training = model.training
    model.eval()
    try:
        for batch in windows:
            yield _score(model, batch)
    finally:
        model.train(training)


def _score(model: GPT2, batch: Windows) -> TokenScores:
    try:
        return _score_at_once(model, batch)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
    rows, length = batch.inputs.shape
    if rows == 1:
        raise UserError(f"There is too little memory to score a window of {length} tokens: gpt2flow plan says what fits.")
    halves = [_score(model, part) for part in batch.in_halves()]
    return TokenScores(*(torch.cat([getattr(half, field.name) for half in halves]) for field in fields(TokenScores)))


def _score_at_once(model: GPT2, batch: Windows) -> TokenScores:
    device, scored = model.wte.weight.device, batch.targets != IGNORED
    hidden = model.hidden(batch.inputs.to(device), mask=model.mask_for(batch.inputs))[scored.to(device)]  # [N, C]
    ids = batch.targets[scored]
    return TokenScores(batch.positions[scored], ids, *score_targets(hidden, model.wte.weight, ids.to(device)))


def score_targets(hidden: Tensor, weight: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """nats, right and confidence (as in `TokenScores`) of targets int64 [N] after final hidden states [N, C].

    A chunk of tokens at a time meets the head `weight` [V, C], so no more memory is taken than training takes for its loss.
    """
    n_vocab = weight.shape[0]
    if weight.dtype is torch.bfloat16:  # such products are faster where the vocabulary is a multiple
        weight = F.pad(weight, (0, 0, 0, -n_vocab % PADDING))
    size = CHUNK if hidden.device.type == "cpu" else ACCELERATOR_CHUNK
    chunks = [
        _score_chunk(F.linear(hidden[start : start + size], weight)[:, :n_vocab].float(), targets[start : start + size])
        for start in range(0, len(hidden), size)
    ]
    if not chunks:
        return torch.empty(0).double(), torch.empty(0).bool(), torch.empty(0).double()
    nats, right, confidence = (torch.cat(parts).cpu() for parts in zip(*chunks, strict=True))
    return nats.double(), right, confidence.double()


def _score_chunk(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Of logits float32 [n, V]."""
    best, likeliest = logits.max(-1)
    total = logits.logsumexp(-1)
    nats = total - logits.gather(1, targets[:, None])[:, 0]
    return nats, likeliest == targets, (best - total).exp()
