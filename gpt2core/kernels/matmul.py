"""Calls matmul_bfloat16.c and matmul_float32.c: the matrix products of a training step, on a CPU with a C compiler.

All matrices are contiguous by rows, of which `x` may be the first columns of wider ones. The workspace is a tensor, so that it
is counted where memory is, and missing where memory is. Callers ask `supports` first, and otherwise have a way in PyTorch.
"""

from __future__ import annotations

import torch
from torch import Tensor

from gpt2core.kernels import training_kernels
from gpt2core.kernels.c_library import COUNT, POINTER, CLibrary, address
from gpt2core.kernels.operators import operator

BFLOAT16: dict[str, list[type]] = {
    "multiply": [POINTER, COUNT, POINTER, COUNT, POINTER, POINTER, COUNT, POINTER, *[COUNT] * 4],
    "multiply_gradient": [POINTER, COUNT, *[POINTER] * 4, *[COUNT] * 5],
    "multiply_workspace_size": [COUNT] * 4,
    "gradient_workspace_size": [COUNT] * 3,
}
FLOAT32: dict[str, list[type]] = {
    "multiply": [*[POINTER, COUNT, COUNT] * 2, POINTER, POINTER, COUNT, POINTER, *[COUNT] * 5],
    "sum_rows": [POINTER] * 2 + [COUNT] * 4,
    "multiply_workspace_size": [COUNT] * 3,
}
FEWEST_ROWS = 32
"""With fewer rows of x, it does not pay to pack the weight for them."""

library = CLibrary("matmul_bfloat16", BFLOAT16, least="bf16")
float32_library = CLibrary("matmul_float32", FLOAT32, least="avx2")


def supports(x: Tensor, n_out: int = 2) -> bool:
    """Whether they multiply x [..., in] for so many outputs, forward and backward: in bfloat16 both must be even.

    Below AVX2, and in bfloat16 where there is AMX, PyTorch's are faster.
    """
    if x.numel() < FEWEST_ROWS * x.shape[-1] or not training_kernels.supports(x):
        return False
    if x.dtype is torch.float32:
        return float32_library() is not None
    even = x.shape[-1] % 2 == 0 and n_out % 2 == 0
    return even and not torch.cpu.get_capabilities().get("amx_bf16") and library() is not None


def multiply(x: Tensor, weight: Tensor, out: Tensor, bias: Tensor | None = None, transposed: bool = False) -> None:
    """out [n, out] = x [n, in] @ weight [in, out] + bias [out]; the weight may be stored [out, in] instead.

    `x` and `out` may have more columns than those. In bfloat16 an odd `in` needs one more, of finite numbers, and no transposed
    weight.
    """
    n_in, n_out = reversed(weight.shape) if transposed else weight.shape
    if x.is_cuda:
        factor = weight.t() if transposed else weight
        torch.mm(x, factor, out=out) if bias is None else torch.addmm(bias, x, factor, out=out)
        return
    if x.dtype is torch.float32:
        _multiply_float32(
            x[:, :n_in], weight.t() if transposed else weight, bias, out, _float32_workspace(x, n_in, n_out), False
        )
        return
    _multiply(x, weight, bias, out, _workspace("multiply_workspace_size", x, len(x), n_in, n_out), transposed)


def add_gradient(x: Tensor, by_out: Tensor, by_weight: Tensor, by_bias: Tensor | None, add: bool) -> None:
    """by_weight [in, out] = x [n, in] transposed @ by_out [n, out], and by_bias [out] = the sum of by_out, both float32.

    With `add` they are added to what is there. `x` may have more columns than `in`.
    """
    if x.is_cuda:
        _add_product_on_cuda(x, by_out, by_weight, add)
        return
    if x.dtype is torch.float32:
        workspace = _float32_workspace(x, len(x), by_out.shape[1])
        _multiply_float32(x[:, : len(by_weight)].t(), by_out, None, by_weight, workspace, add)
        if by_bias is not None:
            _sum_rows(by_out, by_bias, add)
        return
    workspace = _workspace("gradient_workspace_size", x, len(x), by_out.shape[1])
    _multiply_gradient(x, by_out, by_weight, by_bias, workspace, add)


def _workspace(function: str, like: Tensor, *sizes: int) -> Tensor:
    compiled = library()
    assert compiled is not None
    words = getattr(compiled, function)(*sizes, torch.get_num_threads())
    return like.new_empty(words, dtype=torch.int32)


def _float32_workspace(like: Tensor, terms: int, n_out: int) -> Tensor:
    compiled = float32_library()
    assert compiled is not None
    return like.new_empty(compiled.multiply_workspace_size(terms, n_out, torch.get_num_threads()))


@operator("out", "workspace")
def _multiply(x: Tensor, weight: Tensor, bias: Tensor | None, out: Tensor, workspace: Tensor, transposed: bool) -> None:
    n_in, n_out = reversed(weight.shape) if transposed else weight.shape
    sizes = (len(x), n_in, n_out, torch.get_num_threads())
    factors = (address(x), x.stride(0), address(weight), transposed, address(bias))
    compiled = library()
    assert compiled is not None
    compiled.multiply(*factors, address(out), out.stride(0), address(workspace), *sizes)


@operator("by_weight", "by_bias", "workspace")
def _multiply_gradient(
    x: Tensor, by_out: Tensor, by_weight: Tensor, by_bias: Tensor | None, workspace: Tensor, add: bool
) -> None:
    compiled = library()
    assert compiled is not None
    tensors = map(address, (by_out, by_weight, by_bias, workspace))
    compiled.multiply_gradient(address(x), x.stride(0), *tensors, len(x), *by_weight.shape, add, torch.get_num_threads())


@operator("out", "workspace")
def _multiply_float32(left: Tensor, right: Tensor, bias: Tensor | None, out: Tensor, workspace: Tensor, add: bool) -> None:
    """out [n, m] = left [n, k] @ right [k, m], each stored in either order, + bias [m] or, with `add`, what is there."""
    compiled = float32_library()
    assert compiled is not None
    factors = (address(left), *left.stride(), address(right), *right.stride(), address(bias))
    sizes = (*left.shape, right.shape[1], add, torch.get_num_threads())
    compiled.multiply(*factors, address(out), out.stride(0), address(workspace), *sizes)


@operator("to")
def _sum_rows(rows: Tensor, to: Tensor, add: bool) -> None:
    """to [m] = the sum of rows [n, m] and, with `add`, what is there."""
    compiled = float32_library()
    assert compiled is not None
    compiled.sum_rows(address(rows), address(to), *rows.shape, add, torch.get_num_threads())


@operator("total", device="CUDA")
def _add_product_on_cuda(left: Tensor, right: Tensor, total: Tensor, add: bool) -> None:
    """total [n, m] = left [k, n] transposed @ right [k, m], bfloat16 summed in float32, plus what is there with `add`."""
    torch.ops.aten.addmm.dtype_out(total, left.t(), right, torch.float32, beta=float(add), out=total)
