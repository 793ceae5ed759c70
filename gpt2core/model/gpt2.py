"""GPT-2, exactly: pre-LayerNorm blocks, tanh GELU, learned positions, output head tied to the token embedding.

Source: openai/gpt-2 src/model.py. Matrices are stored [in, out] as in the released files, so weights are copied, never
transposed. Shapes: B batch, T new positions, C n_embd, H heads, D head size, V n_vocab.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from configs.errors import UserError
from gpt2core.model.attention import attend_within
from gpt2core.model.batch_parts import by_parts
from gpt2core.model.config import GPT2Config
from gpt2core.model.document_mask import DocumentMask, document_mask
from gpt2core.model.gelu import gelu
from gpt2core.model.key_value_cache import KeyValueCache
from gpt2core.model.layer_norm import LayerNorm
from gpt2core.model.linear import embedding, linear
from gpt2core.model.linear_cross_entropy import linear_cross_entropy


class Projection(nn.Module):
    """A dense layer whose weight is [in, out] (a 1x1 convolution in OpenAI's code)."""

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(n_in, n_out))
        self.bias = nn.Parameter(torch.empty(n_out))

    def whole_weight(self) -> Tensor:
        """The weight [in, out] that it multiplies by, with everything that was added to it."""
        return self.weight

    def forward(self, x: Tensor) -> Tensor:
        """[..., in] -> [..., out]."""
        return linear(x, self.weight, self.bias)


class Attention(nn.Module):
    """Causal multi-head self-attention with one fused projection for query, key and value."""

    def __init__(self, config: GPT2Config, layer: int) -> None:
        super().__init__()
        self.n_head = config.n_head
        self.layer = layer
        self.dropout = config.dropout
        self.c_attn = Projection(config.n_embd, 3 * config.n_embd)
        self.c_proj = Projection(config.n_embd, config.n_embd)

    def forward(self, x: Tensor, cache: KeyValueCache | None, mask: DocumentMask | None = None) -> Tensor:
        """[B, T, C] -> [B, T, C]; with a mask the documents are kept apart."""
        batch, length, width = x.shape
        heads = self.c_attn(x).view(batch, length, 3, self.n_head, width // self.n_head)
        if cache is None:
            mixed = attend_within(heads, self.dropout if self.training else 0.0, mask)  # [B, T, H, D]
        else:
            query, key, value = heads.permute(2, 0, 3, 1, 4).unbind()  # each [B, H, T, D]
            mixed = cache.attend(self.layer, query, key, value).transpose(1, 2)
        out: Tensor = self.c_proj(mixed.reshape(batch, length, width))
        return out


class MLP(nn.Module):
    """Two projections, four times as wide in between, with the tanh-approximated GELU."""

    def __init__(self, config: GPT2Config) -> None:
        super().__init__()
        self.c_fc = Projection(config.n_embd, 4 * config.n_embd)
        self.c_proj = Projection(4 * config.n_embd, config.n_embd)

    def forward(self, x: Tensor) -> Tensor:
        """[B, T, C] -> [B, T, C]."""
        out: Tensor = self.c_proj(gelu(self.c_fc(x)))
        return out


class Block(nn.Module):
    """One transformer block: attention and MLP, each behind a LayerNorm and added to the residual stream."""

    def __init__(self, config: GPT2Config, layer: int) -> None:
        super().__init__()
        self.ln_1 = LayerNorm(config.n_embd, eps=1e-5)
        self.attn = Attention(config, layer)
        self.ln_2 = LayerNorm(config.n_embd, eps=1e-5)
        self.mlp = MLP(config)
        self.drop = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, cache: KeyValueCache | None, mask: DocumentMask | None = None) -> Tensor:
        """[B, T, C] -> [B, T, C]."""
        x = x + self.drop(self.attn(self.ln_1(x), cache, mask))
        out: Tensor = x + self.drop(self.mlp(self.ln_2(x)))
        return out


def run_block(block: nn.Module, x: Tensor, cache: KeyValueCache | None, mask: DocumentMask | None) -> Tensor:
    """A block's output, [B, T, C] -> [B, T, C]: the part of the model that can be compiled."""
    out: Tensor = block(x, cache, mask)
    return out


Around = Callable[[nn.Module, Callable[[Tensor], Tensor], Tensor], Tensor]
"""Has a block's output of x computed by the function that it is given."""


def _bound(
    run: Callable[..., Tensor], block: nn.Module, cache: KeyValueCache | None, mask: DocumentMask | None
) -> Callable[[Tensor], Tensor]:
    return lambda x: run(block, x, cache, mask)


def _nothing_around(_: nn.Module, compute: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    return compute(x)


class GPT2(nn.Module):
    """The language model. Its parameters are uninitialised until `initialise` or a loader fills them."""

    def __init__(self, config: GPT2Config) -> None:
        super().__init__()
        self.config = config
        self.recomputed = 0  # the first so many blocks keep no activations: backward computes them again
        self.training_block = run_block  # perhaps compiled
        self.around_block: Around = _nothing_around  # what happens around each block in training
        self.by_parts = False  # whether training cuts a batch into parts, which Python threads share
        self.separator: int | None = None  # end-of-text id by which training and scoring keep documents apart
        self.wte = nn.Embedding(config.n_vocab, config.n_embd)
        self.wpe = nn.Embedding(config.n_ctx, config.n_embd)
        self.drop = nn.Dropout(config.dropout)
        self.h = nn.ModuleList(Block(config, layer) for layer in range(config.n_layer))
        self.ln_f = LayerNorm(config.n_embd, eps=1e-5)

    def hidden(self, tokens: Tensor, cache: KeyValueCache | None = None, mask: DocumentMask | None = None) -> Tensor:
        """Final hidden states [B, T, C], behind ln_f, of tokens int64 [B, T]; `cache` is read and extended.

        With a mask the documents are kept apart, and there is no cache. Raises UserError where the positions would pass n_ctx.
        """
        past = cache.length if cache is not None else 0
        end = past + tokens.shape[1]
        if end > self.config.n_ctx:
            raise UserError(f"{end} tokens do not fit the context of {self.config.n_ctx}: shorten the text.")
        positions = self._positions(tokens.shape[1], cache, mask)
        x: Tensor = self.drop(embedding(tokens, self.wte.weight) + positions)  # [B, T, C]
        x = self._through_blocks(x, cache, mask)
        if cache is not None:
            cache.advance(tokens.shape[1])
        out: Tensor = self.ln_f(x)
        return out

    def _through_blocks(self, x: Tensor, cache: KeyValueCache | None, mask: DocumentMask | None) -> Tensor:
        run = self.training_block if self.training else run_block
        for number, block in enumerate(self.h):
            recompute = number < self.recomputed and torch.is_grad_enabled()
            way: Callable[..., Tensor] = run
            if recompute:
                way = partial(checkpoint, way, use_reentrant=False, preserve_rng_state=not self.by_parts)
            if self.by_parts and self.training:
                way = partial(by_parts, way)
            around = self.around_block if self.training else _nothing_around
            x = around(block, _bound(way, block, cache, mask), x)
        return x

    def _positions(self, count: int, cache: KeyValueCache | None, mask: DocumentMask | None) -> Tensor:
        """Embeddings of the positions of `count` tokens: [T, C] or [B, T, C]."""
        given = mask.positions if mask else cache.positions(count) if cache else None
        return self.wpe.weight[:count] if given is None else self.wpe(given)

    def forward(self, tokens: Tensor, cache: KeyValueCache | None = None) -> Tensor:
        """Next-token logits: tokens int64 [B, T] -> float32 [B, T, V]."""
        return self.head(self.hidden(tokens, cache))

    def head(self, hidden: Tensor) -> Tensor:
        """Next-token logits float32 [..., V] of final hidden states [..., C]."""
        return F.linear(hidden, self.wte.weight).float()

    def mask_for(self, tokens: Tensor) -> DocumentMask | None:
        """What keeps the documents in tokens int64 [B, T] apart, on the model's device; None without a `separator`."""
        return None if self.separator is None else document_mask(tokens.to(self.wte.weight.device), self.separator)

    def loss(self, tokens: Tensor, targets: Tensor, mask: DocumentMask | None = None) -> Tensor:
        """Mean cross-entropy in nats of targets int64 [B, T] (-100 is left out) after tokens int64 [B, T]."""
        hidden = self.hidden(tokens, mask=mask).flatten(0, 1)
        return linear_cross_entropy(hidden, self.wte.weight, targets.flatten(), self.by_parts and self.training)

    def parameter_count(self) -> int:
        """Number of weights; the tied head counts once."""
        return sum(p.numel() for p in self.parameters())

    @torch.no_grad()
    def initialise(self, seed: int) -> GPT2:
        """Fill the weights as for training from scratch, the same on every device; returns the model.

        Normal with deviation 0.02 (positions 0.01), residual projections scaled by 1/sqrt(2 n_layer), zero biases,
        LayerNorm as the identity: the GPT-2 paper, section 2.3, and OpenAI's model.py.
        """
        generator = torch.Generator().manual_seed(seed)
        for name, parameter in self.named_parameters():
            if name.endswith("bias"):
                parameter.zero_()
            elif parameter.ndim == 1:
                parameter.fill_(1.0)
            else:
                deviation = 0.01 if name == "wpe.weight" else 0.02
                if name.endswith("c_proj.weight"):
                    deviation /= math.sqrt(2 * self.config.n_layer)
                parameter.copy_(torch.empty(parameter.shape).normal_(0.0, deviation, generator=generator))
        return self
