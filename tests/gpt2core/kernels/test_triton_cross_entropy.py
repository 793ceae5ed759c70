"""The loss on a GPU beside the one in float32 on the processor.

Also tests `gpt2core.kernels.triton_cross_entropy`, which `gpt2core.kernels.training_kernels` imports where there is CUDA.
"""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from gpt2core.kernels import training_kernels
from gpt2core.model.linear_cross_entropy import linear_cross_entropy

GPU = torch.device("cuda")


@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize(("rows", "vocabulary"), [(1, 2), (3, 64), (5, 2049), (9, 50257)])
def test_logits_become_their_derivatives_and_padding_counts_for_nothing(rows: int, vocabulary: int) -> None:
    width = -(-vocabulary // 64) * 64
    logits = torch.randn(rows, width, generator=torch.Generator().manual_seed(0)).mul(8).bfloat16()
    targets = torch.arange(rows) * 7 % vocabulary
    targets[rows // 2] = -100
    share = (targets >= 0) / max(1, rows - 1)
    exact = logits[:, :vocabulary].double().requires_grad_()
    expected = F.cross_entropy(exact, targets, reduction="sum") / max(1, rows - 1)
    expected.backward()
    logits[:, vocabulary:] = torch.nan
    error, losses = logits.to(GPU), torch.empty(rows, device=GPU)
    training_kernels.cross_entropy(error, targets.to(GPU), share.to(GPU), losses, vocabulary, True)
    assert losses.sum().item() == pytest.approx(expected.item(), rel=1e-5)
    assert not error[:, vocabulary:].any()
    assert exact.grad is not None
    assert (error[:, :vocabulary].double().cpu() - exact.grad).norm() <= 0.005 * exact.grad.norm()


@pytest.mark.parametrize("gradients", [False, True])
def test_the_kernel_compiles_for_a_gpu_that_is_not_here(gradients: bool) -> None:
    pytest.importorskip("triton", reason="no Triton: it comes with PyTorch for CUDA")
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource, compile

    from gpt2core.kernels import triton_cross_entropy

    kinds = ("*bf16", "*i64", "*fp32", "*fp32", "i32", "constexpr", "constexpr", "constexpr")
    kernel = triton_cross_entropy._cross_entropy
    constants = {(5,): 50304, (6,): gradients, (7,): triton_cross_entropy.COLUMNS}
    source = ASTSource(kernel, dict(zip(kernel.arg_names, kinds, strict=True)), constexprs=constants)
    options = {"num_warps": triton_cross_entropy.WARPS}
    assert "ld.global" in compile(source, target=GPUTarget("cuda", 90, 32), options=options).asm["ptx"]


def loss_and_gradients(hidden: Tensor, weight: Tensor, targets: Tensor, device: torch.device) -> tuple[Tensor, ...]:
    inputs = [part.to(device).requires_grad_() for part in (hidden, weight)]
    loss = linear_cross_entropy(*inputs, targets.to(device))
    return tuple(part.detach().cpu().float() for part in (loss, *torch.autograd.grad(loss, inputs)))


@pytest.mark.usefixtures("gpu")
def test_the_loss_on_a_gpu_is_that_of_the_processor_and_the_same_every_time() -> None:
    generator = torch.Generator().manual_seed(1)
    hidden, weight = torch.randn(5000, 64, generator=generator), torch.randn(501, 64, generator=generator).mul(0.3)
    targets = torch.randint(501, (5000,), generator=generator)
    targets[::5] = -100
    expected = loss_and_gradients(hidden.bfloat16().float(), weight.bfloat16().float(), targets, torch.device("cpu"))
    found, again = (loss_and_gradients(hidden.bfloat16(), weight.bfloat16(), targets, GPU) for _ in range(2))
    assert all(map(torch.equal, found, again))
    for one, other in zip(found, expected, strict=True):
        assert (one - other).norm() <= 0.01 * other.norm()


def test_the_kernel_is_for_bfloat16_on_a_gpu_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training_kernels, "supports", lambda _: False)
    assert not training_kernels.supports_loss(torch.empty(1, dtype=torch.bfloat16))
    assert not training_kernels.supports_loss(torch.empty(1))
