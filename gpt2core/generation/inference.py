"""A copy of a model for continuing text: smaller weights, read once a token at the speed of memory.

Norms, positions and sums stay float32; matrices are bfloat16, or int8 with a scale for each output, and what they multiply is
rounded to bfloat16 where the hardware multiplies that. On a CPU with a C compiler products, and whole steps of one token a row,
run in `gpt2core.kernels.inference`, where a row's bits do not depend on the other rows.
"""

from __future__ import annotations

import ctypes
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from configs.errors import UserError
from gpt2core.kernels import inference
from gpt2core.machine import allocator
from gpt2core.machine.dtypes import choose_dtype
from gpt2core.model.document_mask import DocumentMask
from gpt2core.model.gpt2 import GPT2, Block, Projection
from gpt2core.model.key_value_cache import KeyValueCache

Weights = Literal["auto", "float32", "bfloat16", "int8"]
MULTIPLE = 64
"""Widths that the compiled code takes are multiples of this."""


def for_inference(model: GPT2, weights: Weights = "auto") -> GPT2:
    """The model itself where its own weights are right or it is such a copy already, else a copy with smaller weights.

    `auto` takes bfloat16 where that is faster: where the hardware multiplies it, or compiled code reads it. Raises UserError
    where int8 is not possible.
    """
    device = model.wte.weight.device
    if isinstance(model, InferenceModel):
        return model
    width = model.config.n_embd
    faster = _compiled_code_takes(width, device) or choose_dtype("auto", device, width) is torch.bfloat16
    if weights == "float32" or (weights == "auto" and not faster):
        return model
    if weights == "int8" and not _compiled_code_takes(width, device):
        raise UserError("weights 'int8' need a CPU, a C compiler and an n_embd that is a multiple of 64: use bfloat16.")
    return InferenceModel(model, weights == "int8").eval().requires_grad_(False)


class InferenceModel(GPT2):
    """See the module's docstring. Not for training."""

    def __init__(self, model: GPT2, int8: bool) -> None:
        with torch.device("meta"):
            super().__init__(replace(model.config, dropout=0.0))
        small = {name: weight.detach().float() for name, weight in model.named_parameters() if _stays_float(name)}
        embedding = model.wte.weight.detach().bfloat16()
        self.load_state_dict({**small, "wte.weight": embedding}, strict=False, assign=True)
        for own, block in zip(self.h, model.h, strict=True):
            for layer, names in (("attn", ("c_attn", "c_proj")), ("mlp", ("c_fc", "c_proj"))):
                for name in names:
                    projection = getattr(getattr(block, layer), name)
                    setattr(getattr(own, layer), name, RowProjection.of(projection, int8))
        self._head = RowProjection(model.wte.weight.detach() if int8 else embedding, None, int8)
        self._native = self._prepare() if _compiled_code_takes(model.config.n_embd, embedding.device) else None

    def head(self, hidden: Tensor) -> Tensor:
        """Next-token logits float32 [..., V] of final hidden states [..., C]."""
        out: Tensor = self._head(hidden)
        return out

    def _through_blocks(self, x: Tensor, cache: KeyValueCache | None, mask: DocumentMask | None) -> Tensor:
        if self._native is None or cache is None or x.shape[1] > 1:
            return super()._through_blocks(x, cache, mask)
        inference.step(self._native, x[:, 0], cache.keys, cache.values, cache.lengths)
        return x

    def _prepare(self) -> ctypes.Array[inference.PackedBlock] | None:
        """Pack all matrices; returns the blocks for `inference.step`, or None where its attention does not take the heads."""
        layers = [module for module in self.modules() if isinstance(module, RowProjection)]
        sizes = [inference.packed_size(layer.weight) for layer in layers]
        memory = allocator.empty((sum(sizes),), torch.uint8)
        for layer, part in zip(layers, torch.split(memory, sizes), strict=True):
            layer.pack(part)
        if self.config.head_size % inference.PANEL or self.config.head_size > inference.WIDEST_HEAD:
            return None
        return (inference.PackedBlock * len(self.h))(*map(_native_block, self.h))


def _native_block(block: nn.Module) -> inference.PackedBlock:
    assert isinstance(block, Block)
    layers = (block.attn.c_attn, block.attn.c_proj, block.mlp.c_fc, block.mlp.c_proj)
    attention_in, attention_out, mlp_in, mlp_out = (layer.native for layer in layers if isinstance(layer, RowProjection))
    return inference.PackedBlock(
        inference.norm(block.ln_1), attention_in, attention_out, inference.norm(block.ln_2), mlp_in, mlp_out
    )


class RowProjection(nn.Module):
    """A dense layer whose weight is bfloat16 or int8, for float32 inputs, which are rounded to bfloat16.

    `weight` is [out, in] until it is packed for the compiled code; `native` is the layer as that code sees it.
    """

    weight: Tensor
    scale: Tensor | None
    bias: Tensor | None

    def __init__(self, weight: Tensor, bias: Tensor | None, int8: bool) -> None:
        super().__init__()
        scale = None
        if int8:  # symmetric, the largest weight of each output is 127
            scale = (weight.float().abs().amax(1) / 127).clamp(min=torch.finfo(torch.float32).tiny)
            weight = (weight.float() / scale[:, None]).round().to(torch.int8)
        self.register_buffer("weight", weight if int8 else weight.to(torch.bfloat16))
        self.register_buffer("scale", scale)
        self.register_buffer("bias", bias)
        self.native: inference.PackedProjection | None = None

    def pack(self, memory: Tensor) -> None:
        """Move the weight into `memory`, of `inference.packed_size`, for the compiled code."""
        n_out, n_in = self.weight.shape
        self.weight = inference.pack(self.weight, memory)
        self.native = inference.projection(self.weight, self.scale, self.bias, n_in, n_out)

    @classmethod
    def of(cls, projection: Projection, int8: bool) -> RowProjection:
        """The same layer as the given one."""
        return cls(projection.whole_weight().detach().t(), projection.bias.detach().float(), int8)

    def forward(self, x: Tensor) -> Tensor:
        """float32 [..., in] -> float32 [..., out]."""
        if self.native is not None:
            return inference.products(x.reshape(-1, x.shape[-1]), self.native).view(*x.shape[:-1], -1)
        out = F.linear(x.bfloat16(), self.weight).float()
        return out if self.bias is None else out + self.bias


def _stays_float(name: str) -> bool:
    return "ln_" in name or name.startswith("wpe")


def _compiled_code_takes(width: int, device: torch.device) -> bool:
    return device.type == "cpu" and width % MULTIPLE == 0 and inference.library() is not None
