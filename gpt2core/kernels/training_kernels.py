"""Calls training_kernels.c: what a step does besides its products, on a CPU with a C compiler.

The loss has a kernel for CUDA as well, in `triton_cross_entropy`.

The functions are PyTorch operators that write into tensors which the caller has made, all of them contiguous, so a rehearsal
on tensors without data counts their memory. Callers ask `supports` first, and have a way in plain PyTorch otherwise.
"""

from __future__ import annotations

import ctypes
from functools import cache
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor
from torch.library import impl

from gpt2core.kernels.c_library import COUNT, NUMBER, POINTER, CLibrary, address
from gpt2core.kernels.operators import operator

SIGNATURES: dict[str, list[type]] = {
    "gelu": [POINTER] * 3 + [COUNT],
    "layer_norm": [POINTER] * 5 + [NUMBER] + [COUNT] * 2,
    "layer_norm_backward": [POINTER] * 8 + [COUNT] * 3,
    "cross_entropy": [POINTER] * 4 + [COUNT] * 4,
    "sum_of_squares": [POINTER] * 2 + [COUNT],
    "scale": [POINTER] * 2 + [COUNT],
    "adamw": [POINTER] * 5 + [NUMBER] * 7 + [COUNT],
}

SUMMED_ROWS = 64
"""Rows whose gradients by a LayerNorm's weight and bias are added up together, as training_kernels.c says."""

library = CLibrary("training_kernels", SIGNATURES)
float32_library = CLibrary("training_kernels", SIGNATURES, defined=("FLOAT32",))
BY_DTYPE = {torch.bfloat16: library, torch.float32: float32_library}


def supports(tensor: Tensor) -> bool:
    """Whether the kernels are there for this tensor: bfloat16 or float32 on a CPU; torch.compile has its own."""
    found = BY_DTYPE.get(tensor.dtype) if tensor.device.type == "cpu" and not torch.compiler.is_compiling() else None
    return found is not None and found() is not None


def supports_loss(logits: Tensor) -> bool:
    """Whether `cross_entropy` is there for such logits: on CUDA too, in bfloat16, where there is Triton."""
    return (logits.is_cuda and logits.dtype is torch.bfloat16 and _has_triton()) or supports(logits)


@cache
def _has_triton() -> bool:
    return find_spec("triton") is not None


def _code(tensor: Tensor) -> ctypes.CDLL:
    compiled = BY_DTYPE[tensor.dtype]()
    assert compiled is not None
    return compiled


@operator("out", "slope")
def gelu(x: Tensor, out: Tensor, slope: Tensor | None) -> None:
    """GELU in its tanh form of x, of any shape, and its derivative there, by which backward multiplies."""
    _code(x).gelu(address(x), address(out), address(slope), x.numel())


@operator("out", "statistics")
def layer_norm(x: Tensor, weight: Tensor, bias: Tensor, out: Tensor, statistics: Tensor, epsilon: float) -> None:
    """LayerNorm of the rows of x [..., C]; `statistics` float32 [rows, 2] are what `layer_norm_backward` needs besides."""
    tensors = map(address, (x, weight, bias, out, statistics))
    _code(x).layer_norm(*tensors, epsilon, len(statistics), len(weight))


def layer_norm_workspace(statistics: Tensor, weight: Tensor) -> Tensor:
    """What `layer_norm_backward` needs where it makes gradients by weight and bias."""
    return statistics.new_empty(-(-len(statistics) // SUMMED_ROWS), 2, len(weight))


@operator("by_x", "by_weight", "by_bias", "workspace")
def layer_norm_backward(
    x: Tensor,
    weight: Tensor,
    statistics: Tensor,
    by_out: Tensor,
    by_x: Tensor,
    by_weight: Tensor | None,
    by_bias: Tensor | None,
    workspace: Tensor | None,
    add: bool,
) -> None:
    """The gradients by x and, float32 [C] and both or none, by weight and bias: with `add` they are added to what is there."""
    tensors = map(address, (x, weight, statistics, by_out, by_x, by_weight, by_bias, workspace))
    _code(x).layer_norm_backward(*tensors, add, len(statistics), len(weight))


@operator("logits", "losses")
def cross_entropy(logits: Tensor, targets: Tensor, share: Tensor, losses: Tensor, n_vocab: int, gradients: bool) -> None:
    """Each row's cross-entropy, times its `share`, of logits [n, padded V] at targets int64 [n]: float32 [n].

    Only the first `n_vocab` logits count. With `gradients` the logits become the derivatives of the sum. A row whose share is
    0 is left out, whatever its target.
    """
    values = map(address, (logits, targets, share, losses))
    _code(logits).cross_entropy(*values, gradients, len(logits), n_vocab, logits.shape[1])


@impl("gpt2flow::cross_entropy", "CUDA")
def _cross_entropy_on_cuda(*arguments: Any) -> None:
    from gpt2core.kernels import triton_cross_entropy  # Triton is not everywhere

    triton_cross_entropy.cross_entropy(*arguments)


@operator("sums")
def sums_of_squares(tensors: list[Tensor], sums: Tensor) -> None:
    """For each of n float32 tensors the sum of its squares, float64 [n], in an order that depends on its size alone."""
    code = _code(tensors[0])
    for tensor, place in zip(tensors, range(sums.data_ptr(), sums.data_ptr() + sums.nbytes, sums.itemsize), strict=True):
        code.sum_of_squares(address(tensor), place, tensor.numel())


@operator("values")
def scale(values: Tensor, factor: Tensor) -> None:
    """Multiply values by a float32 factor []; takes no time where it is 1."""
    _code(values).scale(address(values), address(factor), values.numel())


@operator("weights", "moment", "square", "copy")
def adamw(
    weights: Tensor, gradient: Tensor, moment: Tensor, square: Tensor, copy: Tensor | None, clip: float, factors: list[float]
) -> None:
    """One update of float32 weights by AdamW, for a gradient that is `clip` times the given one, and of their bfloat16 copy.

    weights = kept * weights - rate * moment / (correction * sqrt(square) + epsilon), where the factors are beta1, beta2, kept,
    rate, correction and epsilon.
    """
    tensors = map(address, (weights, gradient, moment, square, copy))
    _code(weights if copy is None else copy).adamw(*tensors, clip, *factors, weights.numel())
