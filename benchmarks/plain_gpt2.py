"""GPT-2 as one writes it in plain PyTorch: nn.Linear, fused attention, all logits at once. For comparison only."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gpt2core.model.config import GPT2Config
from gpt2core.model.gpt2 import GPT2


class PlainBlock(nn.Module):
    """Pre-LayerNorm attention and MLP."""

    def __init__(self, config: GPT2Config) -> None:
        super().__init__()
        self.n_head = config.n_head
        self.ln_1, self.ln_2 = nn.LayerNorm(config.n_embd), nn.LayerNorm(config.n_embd)
        self.c_attn, self.attn_proj = nn.Linear(config.n_embd, 3 * config.n_embd), nn.Linear(config.n_embd, config.n_embd)
        self.c_fc, self.mlp_proj = nn.Linear(config.n_embd, 4 * config.n_embd), nn.Linear(4 * config.n_embd, config.n_embd)

    def forward(self, x: Tensor) -> Tensor:
        """[B, T, C] -> [B, T, C]."""
        batch, length, width = x.shape
        parts = self.c_attn(self.ln_1(x)).split(width, dim=2)
        query, key, value = (part.view(batch, length, self.n_head, -1).transpose(1, 2) for part in parts)
        mixed = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        x = x + self.attn_proj(mixed.transpose(1, 2).reshape(batch, length, width))
        out: Tensor = x + self.mlp_proj(F.gelu(self.c_fc(self.ln_2(x)), approximate="tanh"))
        return out


class PlainGPT2(nn.Module):
    """The model with its loss."""

    def __init__(self, config: GPT2Config) -> None:
        super().__init__()
        self.wte, self.wpe = nn.Embedding(config.n_vocab, config.n_embd), nn.Embedding(config.n_ctx, config.n_embd)
        self.h = nn.ModuleList(PlainBlock(config) for _ in range(config.n_layer))
        self.ln_f = nn.LayerNorm(config.n_embd)

    @torch.no_grad()
    def load_gpt2(self, model: GPT2) -> None:
        """Take over weights; GPT-2 stores its matrices transposed."""
        names = {"attn.c_attn": "c_attn", "attn.c_proj": "attn_proj", "mlp.c_fc": "c_fc", "mlp.c_proj": "mlp_proj"}
        weights = {}
        for name, weight in model.state_dict().items():
            transposed = name.endswith("weight") and any(theirs in name for theirs in names)
            for theirs, own in names.items():
                name = name.replace(theirs, own)
            weights[name] = weight.t() if transposed else weight
        self.load_state_dict(weights)

    def forward(self, tokens: Tensor, targets: Tensor) -> Tensor:
        """Mean cross-entropy of targets [B, T] after tokens [B, T]."""
        x = self.wte(tokens) + self.wpe.weight[: tokens.shape[1]]
        for block in self.h:
            x = block(x)
        logits = F.linear(self.ln_f(x), self.wte.weight)
        return F.cross_entropy(logits.flatten(0, 1), targets.flatten())
