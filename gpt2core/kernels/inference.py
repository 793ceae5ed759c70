"""Calls inference.c, compiled for this machine: products with small weights and steps of a token a row, at the speed of memory.

Where there is no compiler, or on another kind of processor than the CPU, nothing here is needed: see
`gpt2core.generation.inference`.
"""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gpt2core.kernels.c_library import COUNT, POINTER, CLibrary, address

SCORES = 16
"""What the length of a row of scores is a multiple of."""
PANEL = 32
"""Outputs whose weights lie together."""
WIDEST_HEAD = 256


class PackedProjection(ctypes.Structure):
    """Where a dense layer's weights lie; the tensors have to be kept by whoever made it."""

    _fields_ = [("weight", POINTER), ("scale", POINTER), ("bias", POINTER), ("n_in", COUNT), ("n_out", COUNT)]


class Norm(ctypes.Structure):
    """Where a LayerNorm's weights lie."""

    _fields_ = [("weight", POINTER), ("bias", POINTER)]


class PackedBlock(ctypes.Structure):
    """A transformer block, in the order in which it computes."""

    _fields_ = [
        ("ln_1", Norm),
        ("attention_in", PackedProjection),
        ("attention_out", PackedProjection),
        ("ln_2", Norm),
        ("mlp_in", PackedProjection),
        ("mlp_out", PackedProjection),
    ]


SIGNATURES: dict[str, list[type]] = {
    "products": [ctypes.POINTER(PackedProjection), POINTER, POINTER, COUNT],
    "step": [ctypes.POINTER(PackedBlock), COUNT, *[POINTER] * 3, COUNT, *[POINTER] * 5, *[COUNT] * 4],
    "activation_bytes": [],
}


library = CLibrary("inference", SIGNATURES)


def packed_size(weight: Tensor) -> int:
    """Bytes that `pack` fills."""
    return -(-len(weight) // PANEL) * PANEL * weight.shape[1] * weight.element_size()


def pack(weight: Tensor, memory: Tensor) -> Tensor:
    """A weight [out, in] in bfloat16 or int8 as the C code reads it: [panel, words, PANEL], words of 2 or 4 inputs as int32.

    It keeps its dtype and lies in `memory`, uint8 of `packed_size`. Outputs are filled up with zeros to whole panels. `in` is a
    multiple of 64.
    """
    padded = F.pad(weight, (0, 0, 0, -len(weight) % PANEL)).contiguous()
    words = padded.view(torch.int32).view(len(padded) // PANEL, PANEL, -1).transpose(1, 2)
    return memory.view(torch.int32).view(words.shape).copy_(words).view(weight.dtype)


def projection(packed: Tensor, scale: Tensor | None, bias: Tensor | None, n_in: int, n_out: int) -> PackedProjection:
    """A layer for `products`; `scale` and `bias` are float32 [out], and int8 weights have a scale."""
    return PackedProjection(address(packed), address(scale), address(bias), n_in, n_out)


def norm(layer: nn.LayerNorm) -> Norm:
    """A LayerNorm for `step`, with weights in float32."""
    return Norm(address(layer.weight), address(layer.bias))


def activation(compiled: ctypes.CDLL) -> torch.dtype:
    """What weights are multiplied by: bfloat16 where the processor multiplies pairs of it, else float32."""
    return torch.bfloat16 if compiled.activation_bytes() == 2 else torch.float32


def products(x: Tensor, layer: PackedProjection) -> Tensor:
    """x [rows, in], rounded to bfloat16 where the processor multiplies it, times the layer's weight: float32 [rows, out].

    A row's bits depend on that row alone.
    """
    compiled = library()
    assert compiled is not None
    rounded, out = x.to(activation(compiled)).contiguous(), torch.empty(len(x), layer.n_out)
    compiled.products(ctypes.byref(layer), address(rounded), address(out), len(x))
    return out


def step(blocks: ctypes.Array[PackedBlock], x: Tensor, keys: Tensor, values: Tensor, lengths: Tensor) -> None:
    """Put x float32 [B, C], one new position a row, through all blocks; a row's bits depend on that row alone.

    `keys` and `values` are bfloat16 [L, B, H, capacity, D], filled up to `lengths` int64 [B], and get the new position's; each
    layer's are contiguous. D is a multiple of 32 and at most 256.
    """
    compiled = library()
    assert compiled is not None
    (rows, n_embd), (_, _, heads, capacity, width) = x.shape, keys.shape
    rounded, inner = (x.new_empty(rows, size * n_embd, dtype=activation(compiled)) for size in (1, 4))
    new, scores = torch.empty(rows, 3 * n_embd), torch.empty(rows, heads, -capacity % SCORES + capacity)
    cached = (address(keys), address(values), keys.stride(0), address(lengths))
    scratch = map(address, (rounded, new, scores, inner))
    compiled.step(blocks, len(blocks), address(x), *cached, *scratch, rows, heads, capacity, width)
