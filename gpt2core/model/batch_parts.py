"""A block computed for a part of a batch's windows at a time, forward and backward, by Python threads that share the parts.

For small models where PyTorch computes alone: the parts and the order in which their gradients are added are always the same,
so all threads can be used without a change of bits. Nothing in a block may be random.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import reduce
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import get_gradient_edge

from gpt2core.machine.python_threads import compute_all
from gpt2core.model.document_mask import DocumentMask
from gpt2core.model.key_value_cache import KeyValueCache

PARTS = 4
"""Of each batch, or as many as it has windows. On two threads 2 would be 3% faster, but no more of them could help, and 8 are a
fifth slower."""

Inputs = tuple[Tensor, DocumentMask | None]


def by_parts(
    run: Callable[..., Tensor], block: nn.Module, x: Tensor, cache: KeyValueCache | None, mask: DocumentMask | None
) -> Tensor:
    """run(block, x, cache, mask), [B, T, C] -> [B, T, C], called for some windows at a time, or at once without gradients."""
    if not torch.is_grad_enabled():
        return run(block, x, cache, mask)
    count = min(PARTS, len(x))
    masks = [DocumentMask(*part) for part in zip(*(whole.tensor_split(count) for whole in mask), strict=True)] if mask else None

    def compute(inputs: Inputs) -> Tensor:
        return run(block, inputs[0], cache, inputs[1])

    out: Tensor = _ByParts.apply(compute, masks or [None] * count, x, *block.parameters())  # type: ignore[no-untyped-call]
    return out


class _ByParts(torch.autograd.Function):
    """Each part has a graph of its own, so that threads go back through them without meeting at a weight's gradient."""

    @staticmethod
    def forward(
        ctx: Any, compute: Callable[[Inputs], Tensor], masks: Sequence[DocumentMask | None], x: Tensor, *parameters: Tensor
    ) -> Tensor:
        needed = ctx.needs_input_grad[2:]
        windows = [part.detach().requires_grad_(needed[0]) for part in x.tensor_split(len(masks))]
        with torch.enable_grad():
            outs = compute_all(compute, list(zip(windows, masks, strict=True)))
        ctx.graphs = []
        if any(needed):
            trained = [parameter for parameter, is_needed in zip(parameters, needed[1:], strict=True) if is_needed]
            inputs = [[part, *trained] if needed[0] else trained for part in windows]
            ctx.graphs = list(zip(map(get_gradient_edge, outs), inputs, strict=True))  # which do not keep what comes out
        return torch.cat(outs)

    @staticmethod
    def backward(ctx: Any, *by_out: Tensor) -> tuple[Tensor | None, ...]:
        by_outs = by_out[0].tensor_split(len(ctx.graphs))
        found = compute_all(_go_back, [(*graph, by) for graph, by in zip(ctx.graphs, by_outs, strict=True)])
        del ctx.graphs
        by_input = iter(zip(*found, strict=True))
        by_x, *by_parameters = ctx.needs_input_grad[2:]
        return (
            None,
            None,
            torch.cat(next(by_input)) if by_x else None,
            *(reduce(torch.add, next(by_input)) if is_needed else None for is_needed in by_parameters),
        )


def _go_back(part: tuple[Any, list[Tensor], Tensor]) -> tuple[Tensor, ...]:
    end, inputs, by_out = part
    return torch.autograd.grad(end, inputs, by_out)
