"""The optimizer that a run's settings ask for."""

from __future__ import annotations

import torch

from configs.schema import TrainSettings
from gpt2core.model import GPT2


def build_optimizer(model: GPT2, settings: TrainSettings) -> torch.optim.AdamW:
    """AdamW, fused, with weight decay on matrices only (biases and LayerNorm are left alone)."""
    matrices = [p for p in model.parameters() if p.ndim >= 2]
    vectors = [p for p in model.parameters() if p.ndim < 2]
    groups = [{"params": matrices, "weight_decay": settings.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, settings.learning_rate, (settings.beta1, settings.beta2), fused=True)
