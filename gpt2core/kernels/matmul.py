"""Calls matmul.c: the matrix products of a bfloat16 step, on a CPU that multiplies bfloat16 and has a C compiler.

All matrices are contiguous by rows, of which `x` may be the first columns of wider ones. Room to work in is a tensor, so that
it is counted where memory is, and missing where memory is.
"""

from __future__ import annotations

import torch
from torch import Tensor

from gpt2core.kernels import training_kernels
from gpt2core.kernels.c_library import COUNT, POINTER, CLibrary, address
from gpt2core.kernels.operators import operator

SIGNATURES: dict[str, list[type]] = {
    "multiply": [POINTER, COUNT, POINTER, COUNT, POINTER, POINTER, COUNT, POINTER, *[COUNT] * 4],
    "multiply_gradient": [POINTER, COUNT, *[POINTER] * 4, *[COUNT] * 5],
    "room_to_multiply": [COUNT] * 4,
    "room_for_gradient": [COUNT] * 3,
}
FEWEST_ROWS = 32
"""With fewer rows of x, it does not pay to pack the weight for them."""


library = CLibrary("matmul", SIGNATURES, least="bf16")


def take(x: Tensor) -> bool:
    """Whether they multiply x [..., in]: AMX, where there is such a thing, is faster."""
    fits = x.shape[-1] % 2 == 0 and x.numel() >= FEWEST_ROWS * x.shape[-1] and training_kernels.take(x)
    return fits and not torch.cpu.get_capabilities().get("amx_bf16") and library() is not None


def multiply(x: Tensor, weight: Tensor, out: Tensor, bias: Tensor | None = None, transposed: bool = False) -> None:
    """out [n, out] = x [n, in] @ weight [in, out] + bias [out]; the weight may be stored [out, in] instead.

    `x` and `out` may have more columns than those. An odd `in` needs one more, of finite numbers, and no transposed weight.
    """
    n_in, n_out = reversed(weight.shape) if transposed else weight.shape
    room = _room("room_to_multiply", x, len(x), n_in, n_out)
    _multiply(x, weight, bias, out, room, transposed)


def add_gradient(x: Tensor, by_out: Tensor, by_weight: Tensor, by_bias: Tensor | None, add: bool) -> None:
    """by_weight [in, out] = x [n, in] transposed @ by_out [n, out], and by_bias [out] = the sum of by_out, both float32.

    With `add` they are added to what is there. `x` may have more columns than `in`.
    """
    _multiply_gradient(x, by_out, by_weight, by_bias, _room("room_for_gradient", x, len(x), by_out.shape[1]), add)


def _room(function: str, like: Tensor, *sizes: int) -> Tensor:
    count = getattr(library(), function)
    count.restype = COUNT
    words = count(*sizes, torch.get_num_threads())
    return like.new_empty(words, dtype=torch.int32)


@operator("out", "room")
def _multiply(x: Tensor, weight: Tensor, bias: Tensor | None, out: Tensor, room: Tensor, transposed: bool) -> None:
    n_in, n_out = reversed(weight.shape) if transposed else weight.shape
    sizes = (len(x), n_in, n_out, torch.get_num_threads())
    factors = (address(x), x.stride(0), address(weight), transposed, address(bias))
    compiled = library()
    assert compiled is not None
    compiled.multiply(*factors, address(out), out.stride(0), address(room), *sizes)


@operator("by_weight", "by_bias", "room")
def _multiply_gradient(x: Tensor, by_out: Tensor, by_weight: Tensor, by_bias: Tensor | None, room: Tensor, add: bool) -> None:
    compiled = library()
    assert compiled is not None
    tensors = map(address, (by_out, by_weight, by_bias, room))
    compiled.multiply_gradient(address(x), x.stride(0), *tensors, len(x), *by_weight.shape, add, torch.get_num_threads())
