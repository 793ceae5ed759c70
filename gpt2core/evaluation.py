"""How well a model predicts held-out text."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from gpt2core.linear_cross_entropy import IGNORED
from gpt2core.model import GPT2


@dataclass(frozen=True)
class Evaluation:
    """Mean loss in nats a token, and what follows from it; bits per byte compare models with different vocabularies."""

    val_loss: float
    perplexity: float
    bits_per_byte: float
    val_tokens: int


@torch.no_grad()
def evaluate(model: GPT2, batches: Iterable[tuple[Tensor, Tensor]], tokens_per_byte: float) -> Evaluation:
    """Mean cross-entropy over all targets of the batches (int64 [B, T], -100 left out).

    `tokens_per_byte` of the same text turns nats a token into bits a byte. The model's mode is left as it was.
    """
    training, device = model.training, model.wte.weight.device
    model.eval()
    nats, count = 0.0, 0
    for inputs, targets in batches:
        counted = int((targets != IGNORED).sum())
        nats += model.loss(inputs.to(device), targets.to(device)).item() * counted
        count += counted
    model.train(training)
    loss = nats / count
    return Evaluation(loss, math.exp(min(loss, 700.0)), loss / math.log(2) * tokens_per_byte, count)
