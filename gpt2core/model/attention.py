"""Causal attention by whichever way is fastest for its length and dtype; both ways compute the same.

Shapes: B batch, H heads, T queries, K keys (past and new), D head size.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from gpt2core.kernels import causal_attention
from gpt2core.model.document_mask import DocumentMask

LONGEST_PLAIN = 512
"""Up to here, plain products beat PyTorch's fused kernel in bfloat16 on a CPU (2 to 5 times up to 128 positions)."""

READY_FOR_ANY_LENGTH = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
"""PyTorch's kernels without cuDNN's, which is the fastest on some GPUs and takes 45 ms to prepare for each length it meets."""


def attend_within(heads: Tensor, dropout: float, mask: DocumentMask | None = None) -> Tensor:
    """Mix the values of queries, keys and values [B, T, 3, H, D] that have no past, each document's alone: [B, T, H, D]."""
    if dropout > 0 or not causal_attention.supports(heads, documents=mask is not None):
        query, key, value = heads.permute(2, 0, 3, 1, 4).unbind()  # each [B, H, T, D]
        return attend(query, key, value, dropout, mask.visible if mask else None).transpose(1, 2)
    mixed: Tensor = _CausalAttention.apply(heads, mask.positions if mask else None)  # type: ignore[no-untyped-call]
    return mixed


def attend(query: Tensor, key: Tensor, value: Tensor, dropout: float, visible: Tensor | None = None) -> Tensor:
    """Mix values [B, H, K, D] for queries [B, H, T, D]: query i sees key j where i >= j - K + T. Returns [B, H, T, D].

    `visible`, bool [B, 1, T, T], says instead which keys a query sees; there is no past then.
    """
    length, past = query.shape[2], key.shape[2] - query.shape[2]
    if past == 0 and 1 < length <= LONGEST_PLAIN and query.dtype is torch.bfloat16 and query.device.type == "cpu":
        return _plain(query, key, value, dropout, visible)
    if query.is_cuda and not torch.is_grad_enabled():
        with sdpa_kernel(READY_FOR_ANY_LENGTH):
            return _by_pytorch(query, key, value, dropout, visible)
    return _by_pytorch(query, key, value, dropout, visible)


def _by_pytorch(query: Tensor, key: Tensor, value: Tensor, dropout: float, visible: Tensor | None) -> Tensor:
    if visible is not None:
        return F.scaled_dot_product_attention(query, key, value, visible, dropout)
    length, past = query.shape[2], key.shape[2] - query.shape[2]
    # A single query sees every key; several behind a past need the causal mask shifted by that past.
    mask = torch.ones(length, past + length, dtype=torch.bool, device=query.device).tril(past) if past and length > 1 else None
    return F.scaled_dot_product_attention(query, key, value, mask, dropout, is_causal=past == 0 and length > 1)


def _plain(query: Tensor, key: Tensor, value: Tensor, dropout: float, visible: Tensor | None) -> Tensor:
    length, width = query.shape[2:]
    future = torch.full((length, length), -torch.inf, dtype=query.dtype).triu(1)  # [T, T]
    flat_query, flat_key, flat_value = (part.reshape(-1, length, width) for part in (query, key, value))  # [B * H, T, D]
    scores = torch.baddbmm(future, flat_query, flat_key.transpose(1, 2), alpha=1.0 / math.sqrt(width))  # [B * H, T, T]
    if visible is not None:
        scores.view(*query.shape[:2], length, length).masked_fill_(~visible, -torch.inf)
    weights = F.dropout(scores.softmax(-1), dropout)
    return (weights @ flat_value).view(query.shape)


class _CausalAttention(torch.autograd.Function):
    """Keeps no weights: backward computes them again."""

    @staticmethod
    def forward(ctx: Any, heads: Tensor, positions: Tensor | None) -> Tensor:
        heads = heads.contiguous()
        mixed = heads.new_empty(*heads.shape[:2], *heads.shape[3:])
        log_sums = causal_attention.attention(heads, mixed, positions)
        ctx.save_for_backward(heads, positions, mixed, log_sums)
        return mixed

    @staticmethod
    def backward(ctx: Any, *by_mixed: Tensor) -> tuple[Tensor, None]:
        heads, positions, mixed, log_sums = ctx.saved_tensors
        by_heads = torch.empty_like(heads)
        causal_attention.attention_backward(heads, mixed, log_sums, by_mixed[0].contiguous(), by_heads, positions)
        return by_heads, None
