"""The gradients of an update, gone through on tensors without data: what is allocated and when, with nothing allocated.

The trainer that trains runs here as it is, on PyTorch's fake tensors (which know shape, dtype and device, and allocate
nothing), so whatever the settings make it keep is counted, and no formula has to follow the model.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from configs.schema import TrainSettings
from gpt2core.distributed.process_group import ProcessGroup
from gpt2core.memory.workload import Workload
from gpt2core.model.config import GPT2Config
from gpt2core.model.gpt2 import GPT2
from gpt2core.model.linear_cross_entropy import OWN_CHUNK
from gpt2core.training.trainer import Trainer

MANY_PARTS = 4
"""Parts of the loss in a batch beyond which memory grows in proportion to it, so that two smaller batches tell all."""


@dataclass(frozen=True)
class Footprint:
    """Bytes of the tensors of an update. `peak` is their sum at its fullest moment, when not all gradients need be there.

    Of several processes it is the first one's, which keeps no less than others, and has all weights between updates.
    """

    parameters: int
    trained: int
    weights: int
    """What this process keeps of them during an update."""
    whole: int
    """All of them."""
    gradients: int
    optimizer: int
    """What this process keeps of the optimizer's state."""
    activations: int
    peak: int

    @property
    def snapshot(self) -> int:
        """What a checkpoint that is saved beside training copies: trained weights and what is kept of the optimizer's state."""
        return 4 * self.trained + self.optimizer

    @property
    def standing(self) -> int:
        """What stays between updates."""
        return self.whole + self.gradients + self.optimizer


def by_rows(count: Callable[[int], int], rows: int, n_ctx: int) -> int:
    """`count(rows)`; of very many rows of n_ctx tokens concluded from two smaller batches, so that it takes no longer."""
    few = -(-MANY_PARTS * OWN_CHUNK // n_ctx)
    if rows <= 2 * few:
        return count(rows)
    low, high = count(few), count(2 * few)
    return high + (high - low) * (rows - 2 * few) // few


OVERFLOW = "Storage size calculation overflowed"
"""What PyTorch says of a tensor whose bytes 64 bits do not count."""


def rehearse(work: Workload) -> Footprint:
    """The footprint of an update; seconds for a large model. Raises MemoryError for sizes that no address reaches."""

    def figure(name: str) -> int:
        def count(rows: int) -> int:
            return int(getattr(_footprint(work.with_settings(batch_size=rows)), name))

        return by_rows(count, work.settings.batch_size, work.config.n_ctx)

    try:
        return Footprint(*(figure(field.name) for field in fields(Footprint)))
    except RuntimeError as error:
        if OVERFLOW in str(error):
            raise MemoryError(str(error)) from error
        raise


def _footprint(work: Workload) -> Footprint:
    accumulate = min(2 * max(1, work.settings.processes), work.settings.accumulate)
    like = work.with_length(1).with_settings(noise=0.0, compile=False, accumulate=accumulate, memory_limit=None)
    return _rehearse(work.config, like.settings.model_dump_json(), work.device, work.mask_documents)


@lru_cache(maxsize=256)
def _rehearse(config: GPT2Config, settings_json: str, device: torch.device, masked: bool) -> Footprint:
    settings = TrainSettings.model_validate_json(settings_json)
    with FakeTensorMode(), MemoryLedger() as ledger, device:
        model = GPT2(config)
        model.separator = 0 if masked else None
        batches, group = _Blank(settings.batch_size, config.n_ctx), _FirstOf(settings.processes)
        trainer = Trainer(model, batches, settings, group=group)  # type: ignore[arg-type]
        whole, optimizer = ledger.alive, trainer.optimizer
        trainer.let_go_of_others()
        weights, trained = ledger.alive, optimizer.parameters
        added_up = optimizer.kept if weights < whole else trained
        for parameter in added_up:
            parameter.grad = torch.empty_like(parameter)
        count, gradients = (sum(parameter.numel() for parameter in some) for some in (trained, added_up))
        kept = set(optimizer.kept)
        moments = sum(4 * parameter.numel() for _, parameter in optimizer.moments if parameter in kept)
        standing = torch.empty(moments, dtype=torch.uint8)
        trainer.begin_update()
        before = ledger.alive
        at_the_end_of_the_blocks = _note_when_blocks_are_done(trainer.computing_model(), ledger)
        model.train()
        trainer.gradient()
        activations = max(0, max(at_the_end_of_the_blocks) - before)
        del standing
    sizes = (model.parameter_count(), count, weights, whole, 4 * gradients, moments)
    return Footprint(*sizes, activations, ledger.peak)


def _note_when_blocks_are_done(model: GPT2, ledger: MemoryLedger) -> list[int]:
    notes: list[int] = []
    model.ln_f.register_forward_hook(lambda *_: notes.append(ledger.alive))
    return notes


class _FirstOf(ProcessGroup):
    """The first of `size` processes that send nothing, and have all the memory for it."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = self.here = max(1, size)

    def any(self, *flags: bool) -> list[bool]:
        """Nobody else raises one."""
        return list(flags)

    def begin_sum(self, numbers: Tensor) -> Any:
        """Nothing is sent."""

    def begin_exchange(self, flat: Tensor) -> Any:
        """Nothing is sent."""
        return torch.empty_like(flat), None

    def wait(self, work: Any) -> None:
        """Nothing is awaited."""

    def _together(self, call: Callable[[], Any]) -> None:
        """Nothing is said."""


class _Blank:
    """Batches of no particular tokens."""

    def __init__(self, batch_size: int, n_ctx: int) -> None:
        self._shape = (batch_size, n_ctx)

    def at(self, _: int) -> tuple[Tensor, Tensor]:
        """Inputs and targets int64 [B, T]."""
        return torch.empty(self._shape, dtype=torch.int64), torch.empty(self._shape, dtype=torch.int64)


class MemoryLedger(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Bytes of the storages that are alive, and the most there ever were."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.alive = self.peak = 0
        self._sizes: dict[int, int] = {}

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Do what was asked and enter the results' storages."""
        result = function(*args, **(kwargs or {}))
        if function is torch.ops.inductor.resize_storage_bytes_.default:
            self._enter(args[0].untyped_storage())
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self._enter(leaf.untyped_storage())
        return result

    def _enter(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key not in self._sizes:
            weakref.finalize(storage, self._leave, key)
        self.alive += size - self._sizes.get(key, 0)
        self._sizes[key] = size
        self.peak = max(self.peak, self.alive)

    def _leave(self, key: int) -> None:
        self.alive -= self._sizes.pop(key)
