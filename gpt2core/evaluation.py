"""How well a model predicts held-out text."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

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
        logits = model(inputs.to(device)).flatten(0, 1)
        nats += F.cross_entropy(logits, targets.to(device).flatten(), reduction="sum").double().item()
        count += int((targets != -100).sum())
    model.train(training)
    loss = nats / count
    return Evaluation(loss, math.exp(min(loss, 700.0)), loss / math.log(2) * tokens_per_byte, count)
