"""A model whose weights, gradients and optimizer state the processes share out: each keeps those of some parameters.

The weights of a block come to all while it computes, forward and again backward; its gradients go to those who keep them as
soon as backward has made them, and are added there in the order of the batches' numbers. So the bits are those of one process.

ZeRO's third stage (Rajbhandari et al., 2020). PyTorch's `fully_shard` is the same idea; it makes gradients in the dtype that
computes, and adds them in an order that depends on how many processes there are.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from gpt2core.distributed.process_group import ProcessGroup
from gpt2core.distributed.sharded_weights import ShardedWeights, allocate
from gpt2core.distributed.shards import Shards
from gpt2core.optimization.optimizers import gradient_norms
from gpt2core.training.working_copy import WorkingCopy

Compute = Callable[[Tensor], Tensor]

_FETCH, _ADD = "fetch", "add"


class ShardedModel:
    """Between `scatter` and `collect` every process holds its own parameters, and the others' while they are needed.

    For each update `begin`; for every round of batches (`ProcessGroup.rounds`) `begin_round`, forward and backward where this
    process makes a batch, `catch_up`, `add`; then `finish`.
    """

    def __init__(self, working: WorkingCopy, shards: Shards, group: ProcessGroup) -> None:
        self.is_whole = True
        """Whether this process has memory for all weights."""
        self._working = working
        self._shards = shards
        self._group = group
        model = working.model
        masters = dict(zip(model.parameters(), working.master.parameters(), strict=True))

        def weights(module: nn.Module) -> ShardedWeights:
            return ShardedWeights({tensor: masters[tensor] for tensor in module.parameters()}, shards, group)

        self._around = weights(nn.ModuleList([model.wte, model.wpe, model.ln_f]))
        self._of_block = {block: weights(block) for block in model.h}
        self._blocks = list(self._of_block.values())
        first = 0 if model.wte.weight.requires_grad or model.wpe.weight.requires_grad else self._first_trained()
        self._differentiated = self._blocks[first:]
        self._anchor = torch.zeros((), device=model.wte.weight.device, requires_grad=True)
        self._left: deque[tuple[ShardedWeights, str]] = deque()
        """What all processes still have to do together in this round."""
        self._loss: Tensor | None = None
        self._made = 0
        model.around_block = self._around_block

    def scatter(self) -> None:
        """Let go of what the other processes keep."""
        self.is_whole = False
        self._working.follow(self._shards.own)
        for weights in (self._around, *self._blocks):
            weights.release()

    def allocate(self) -> None:
        """Have memory for all weights again, whatever is in it."""
        self.is_whole = True
        every: set[Tensor] = set(self._working.master.parameters())
        for tensor in {*every, *self._working.model.parameters()}:
            allocate(tensor)
        self._working.follow(every)

    def collect(self) -> None:
        """Give the first process all weights."""
        if self._group.rank == 0:
            self.allocate()
        for parameter in self._working.master.parameters():
            owner = self._shards.owner_of(parameter)
            if owner and self._group.rank in (0, owner):
                self._group.hand_to_first(parameter.data, owner)

    def begin(self) -> None:
        """The next round is the first of an update, whatever is left of another one."""
        self._loss = None
        for weights in (self._around, *self._blocks):
            weights.begin()

    def begin_round(self, made: int) -> None:
        """Of `made` batches."""
        self._made = made
        self._around.fetch()
        back = [step for weights in reversed(self._differentiated) for step in ((weights, _FETCH), (weights, _ADD))]
        if self._differentiated:
            del back[0]  # the last block's weights are still there
        self._left = deque([*((weights, _FETCH) for weights in self._blocks), *back])

    def catch_up(self) -> None:
        """Take part in all that is left of the round, and that this process computes nothing for."""
        while self._left:
            weights = self._left[0][0]
            self._take_part(*self._left[0])
            weights.release()

    @torch.no_grad()
    def add(self, loss: Tensor) -> None:
        """Add the losses [] of the round's batches, and the gradients that no block has."""
        self._around.add(self._made)
        self._around.release()
        for part in self._group.gather(loss.reshape(1))[: self._made]:
            self._loss = part.clone() if self._loss is None else self._loss + part

    def finish(self) -> Tensor:
        """The sum [] of all losses; that of all gradients is left in the `grad` of the parameters that this process keeps."""
        for weights in (self._around, *self._blocks):
            weights.finish()
        assert self._loss is not None
        return self._loss

    def gradient_norms(self, parameters: list[Tensor]) -> Tensor:
        """The norm of each one's gradient, [parameters]."""
        norms, owners = torch.zeros(len(parameters), device=self._anchor.device), map(self._shards.owner_of, parameters)
        places = list(zip(owners, range(len(parameters)), strict=True))
        if own := [number for owner, number in places if owner == self._group.rank]:
            norms[own] = gradient_norms([parameters[number] for number in own])
        by_process = self._group.gather(norms).view(self._group.size, -1)
        return torch.stack([by_process[place] for place in places])

    def _around_block(self, block: nn.Module, compute: Compute, x: Tensor) -> Tensor:
        """What a block computes from x, [B, T, C] -> [B, T, C], with weights that are there meanwhile."""
        weights = self._of_block[block]
        if weights in self._differentiated:
            out: Tensor = _Passage.apply(x, self._anchor, self, weights, compute)  # type: ignore[no-untyped-call]
            return out
        self._take_part(weights, _FETCH)
        out = compute(x)
        weights.release()
        return out

    def forward(self, weights: ShardedWeights, compute: Compute, x: Tensor) -> Tensor:
        """Compute with weights that come for it."""
        self._take_part(weights, _FETCH)
        out = compute(x)
        if weights is not self._blocks[-1]:
            weights.release()
        return out

    def backward(self, weights: ShardedWeights, out: Tensor, by_out: Tensor) -> None:
        """Go back through what was computed, and add the gradients that this makes to those of the other processes."""
        if weights is not self._blocks[-1]:
            self._take_part(weights, _FETCH)
        torch.autograd.backward(out, by_out)
        self._take_part(weights, _ADD)
        weights.release()

    def _take_part(self, weights: ShardedWeights, what: str) -> None:
        expected = self._left.popleft()
        assert expected == (weights, what)
        if what == _FETCH:
            weights.fetch()
        else:
            weights.add(self._made)

    def _first_trained(self) -> int:
        return next((number for number, weights in enumerate(self._blocks) if weights.trains), len(self._blocks))


class _Passage(torch.autograd.Function):
    """Through a block, whose own graph stays apart, so that one knows when backward is through with its weights."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, _: Tensor, model: ShardedModel, weights: ShardedWeights, compute: Compute) -> Tensor:
        inner = x.detach().requires_grad_(x.requires_grad)
        with torch.enable_grad():
            out = model.forward(weights, compute, inner)
        ctx.model, ctx.weights, ctx.inner, ctx.out = model, weights, inner, out
        return out.detach()

    @staticmethod
    def backward(ctx: Any, *by_out: Tensor) -> tuple[Tensor | None, ...]:
        ctx.model.backward(ctx.weights, ctx.out, by_out[0])
        by_x, ctx.out, ctx.inner = ctx.inner.grad, None, None
        return by_x, None, None, None, None
