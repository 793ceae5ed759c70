"""In which dtype a model is trained, and the copy of it that computes when that is not float32.

The weights that count and the optimizer's moments stay float32 (master weights). A working copy in bfloat16 is made from
them once an update, not at every layer, and its gradients are added up in float32 as soon as backward has each of them.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

from gpt2core.model.gpt2 import GPT2
from gpt2core.model.gradient_sums import sum_gradients_of

DtypeName = Literal["float32", "bfloat16"]


class WorkingCopy:
    """What computes loss and gradients for a float32 model: itself, or a copy in `dtype` that follows its weights.

    `model` is that copy. Its gradients end up in the float32 model's `grad`, whichever of both it is.
    """

    def __init__(self, master: GPT2, dtype: torch.dtype) -> None:
        self.master = master
        self.model = master if dtype is torch.float32 else _copy_of(master, dtype)
        self._current: dict[Tensor, int] = {}
        self._pairs = list(zip(self.model.parameters(), master.parameters(), strict=True))
        self._trained = [(copied, own) for copied, own in self._pairs if own.requires_grad]
        self._outdated, self._followed = self._pairs, self._trained
        self._sums = [sum_gradients_of(copied, own) for copied, own in self._trained]
        self._aside: dict[Tensor, Tensor] | None = None

    @torch.no_grad()
    def refresh(self) -> None:
        """Take over the master's weights; to be called when they have changed. The frozen ones are taken over once."""
        if self.model is not self.master:
            outdated = [pair for pair in self._outdated if self._current.get(pair[1]) != pair[1]._version]
            if outdated:
                torch._foreach_copy_([copied for copied, _ in outdated], [own for _, own in outdated])
            self._outdated = self._followed
            if self.model.training is not self.master.training:  # every module has to be told
                self.model.train(self.master.training)

    def follow(self, some: set[Tensor]) -> None:
        """From now on take over these weights of the master, and no others: whoever holds those fills their copies."""
        self._outdated = [pair for pair in self._pairs if pair[1] in some]
        self._followed = [pair for pair in self._trained if pair[1] in some]

    @property
    def copies(self) -> dict[Tensor, Tensor]:
        """The copy of each parameter that is trained; none where the model itself computes."""
        return {} if self.model is self.master else {own: copied for copied, own in self._trained}

    def note_as_current(self) -> None:
        """The copies of what is trained have been given the weights as they are now: nothing to refresh until these change."""
        self._current = {own: own._version for _, own in self._trained}

    def begin_update(self) -> None:
        """Let the next gradients be the first ones of an update, whatever is left of others."""
        for copied, _ in self._pairs:
            copied.grad = None
        self.master.wte.weight.grad = None  # the loss makes a new one, and there need not be two
        for total in self._sums:
            total.restart()

    @contextmanager
    def sums_set_aside(self) -> Iterator[None]:
        """Inside, backward makes the gradients of a batch, and each is added to the sum before as soon as it is whole.

        So no more than one of them is held beside the sums.
        """
        self._register_sums()
        self._aside = {own: own.grad for _, own in self._trained if own.grad is not None}
        for summed in self._aside:
            summed.grad = None
        self.begin_update()
        try:
            yield
            for summed in list(self._aside):  # what this batch has no gradient for
                self._add_to_sum(summed, summed)
        finally:
            self._aside.clear()

    def call_with_gradients(self, made: Callable[[Tensor], None]) -> None:
        """Have it called with each trained parameter of the master as soon as backward has added to its `grad`."""
        self._register_sums()  # which come before
        for copied, own in self._trained:
            copied.register_post_accumulate_grad_hook(partial(_hand_on, made, own))  # type: ignore[no-untyped-call]

    def _register_sums(self) -> None:
        if self._aside is None:
            for copied, own in self._trained:
                copied.register_post_accumulate_grad_hook(partial(self._add_to_sum, own))  # type: ignore[no-untyped-call]
            self._aside = {}

    @torch.no_grad()
    def _add_to_sum(self, own: Tensor, _: Tensor) -> None:
        total = self._aside.pop(own, None) if self._aside else None
        if total is not None:
            own.grad = total if own.grad is None else total.add_(own.grad)


def _hand_on(made: Callable[[Tensor], None], own: Tensor, _: Tensor) -> None:
    made(own)


def _copy_of(master: GPT2, dtype: torch.dtype) -> GPT2:
    """The same modules around parameters in `dtype` that are still to be filled."""
    empty = {
        id(own): nn.Parameter(torch.empty_like(own, dtype=dtype), requires_grad=own.requires_grad)
        for own in master.parameters()
    }
    return copy.deepcopy(master, empty)
