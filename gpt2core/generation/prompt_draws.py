"""How likely a model finds each token of a text that stands there already."""

from __future__ import annotations

import torch

from gpt2core.generation.decoding import Draw, draws, evaluating
from gpt2core.model.gpt2 import GPT2

POSITIONS = 64
"""Positions whose logits are in memory at once."""


@torch.inference_mode()
def prompt_draws(model: GPT2, tokens: list[int], alternatives: int) -> list[Draw | None]:
    """What the model gives each of 1 to n_ctx tokens behind those before it, with so many alternatives; None for the first."""
    ids = torch.tensor(tokens, device=model.wte.weight.device)  # [T]
    with evaluating(model):
        hidden = model.hidden(ids[None])[0, :-1]  # [T - 1, C]
    found: list[Draw | None] = [None]
    for start in range(0, len(hidden), POSITIONS):
        part = slice(start, start + POSITIONS)
        found += draws(model.head(hidden[part]), ids[1:][part], alternatives)
    return found
