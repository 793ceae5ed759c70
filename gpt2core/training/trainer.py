"""The optimisation: a live object whose one verb is `run_until(step)`.

Everything an update consumes (windows, dropout, learning rate) is a function of the seed and the step, so the only state
is the weights, the optimizer's moments and the step itself.
"""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from configs.errors import UserError
from configs.schema import TrainSettings
from gpt2core.distributed.gradient_exchange import GradientExchange
from gpt2core.distributed.overlapped_sum import OverlappedSum
from gpt2core.distributed.process_group import ALONE, ProcessGroup
from gpt2core.distributed.shards import Shards
from gpt2core.machine.allocator import keep_freed_memory, return_large_blocks
from gpt2core.machine.devices import choose_threads, copy_to, same_bits_every_time
from gpt2core.machine.dtypes import choose_dtype
from gpt2core.machine.memory import is_out_of_memory
from gpt2core.model.gpt2 import GPT2
from gpt2core.optimization.optimizers import Optimization
from gpt2core.optimization.schedule import learning_rate
from gpt2core.optimization.trainable import choose_trainable
from gpt2core.training.batches import Batches
from gpt2core.training.callback import Callback, StepMetrics, StepsDone
from gpt2core.training.compilation import choose_compilation, compile_blocks
from gpt2core.training.noise import add_noise
from gpt2core.training.recorded_gradient import RecordedGradient
from gpt2core.training.sharded_model import ShardedModel
from gpt2core.training.thread_choice import changes_no_bit, choose_from, computes_by_parts
from gpt2core.training.working_copy import WorkingCopy

REPORT_EVERY = 10  # steps; reading a loss waits for the device, so it is done in groups
SKIPS_IN_A_ROW = 20  # updates left out one after the other, at which skipping gives up


@dataclass(frozen=True)
class TrainerState:
    """What an exact resume needs beside weights and moments. Updates are numbered from 0 here."""

    step: int = 0
    """Updates made."""
    replaced: dict[int, int] = field(default_factory=dict)
    """Updates that take other windows than their own, and how often they were given others."""
    batch_cuts: dict[int, int] = field(default_factory=dict)
    """Updates from which on memory did not suffice for a batch, and into how many each is cut."""
    whole_gradients: bool = True
    """Whether the gradient of a batch is made whole before it is added to those before, which several processes need; version
    0.1 added its parts as they came."""


class DivergedError(Exception):
    """Loss or gradient of update `step` (1 is the first) were not finite; the update was not applied."""

    def __init__(self, step: int) -> None:
        super().__init__(f"The loss or its gradient is no longer finite at step {step}")
        self.step = step


class Trainer:
    """Trains `model` in place; `step` counts the updates made; `callbacks` hear of them.

    In a `group` each process has a trainer of the same model, batches and settings, and all call the same methods.
    """

    def __init__(
        self,
        model: GPT2,
        batches: Batches,
        settings: TrainSettings,
        callbacks: Iterable[Callback] = (),
        group: ProcessGroup = ALONE,
    ) -> None:
        shares_model = group.size > 1 and settings.shard == "model"
        return_large_blocks() if shares_model else keep_freed_memory()
        choose_threads(model.config.n_embd, group.here)
        self.model = model
        self.batches = batches
        self.settings = settings
        self.callbacks = list(callbacks)
        self.micro_batches = settings.accumulate
        """Batches that an update's gradient is the mean of."""
        self.step = 0
        self.replaced: dict[int, int] = {}
        self.batch_cuts: dict[int, int] = {}
        self.whole_gradients = True
        choose_trainable(model, settings)
        self._whole = batches
        self._device = model.wte.weight.device
        self._working = WorkingCopy(model, choose_dtype(settings.dtype, self._device, model.config.n_embd))
        self.optimizer = Optimization(model, settings, self._working.copies)
        self._working.model.recomputed = settings.recompute_blocks
        self.compiled = choose_compilation(settings.compile, self._device, settings.steps * settings.accumulate)
        if self.compiled:
            compile_blocks(self._working.model)
        self._drops = bool(model.config.dropout or settings.lora.dropout)
        self._recorded: RecordedGradient | None = None
        if self._device.type == "cuda" and not (settings.recompute_blocks or shares_model):  # these ask for more than kernels
            self._recorded = RecordedGradient(self.optimizer.parameters)
        self._working.model.by_parts = computes_by_parts(self._working.model, settings)
        self.any_threads = changes_no_bit(self._working.model, settings)
        """Whether the number of threads changes no bit of an update."""
        self._threads = choose_from(self._working.model, settings, group.size)
        self._group = group
        self._join(group)
        self._stop_requested = self._stop_agreed = False
        self._not_finite = torch.zeros((), dtype=torch.bool)
        self._skipped = 0
        self._pending: list[tuple[Tensor, float, Tensor]] = []
        self._reported_at = time.perf_counter()

    def _join(self, group: ProcessGroup) -> None:
        """Make updates together with others, where there are any."""
        settings, several = self.settings, group.size > 1
        self._shards: Shards | None = None
        self._sharded: ShardedModel | None = None
        self._exchange: GradientExchange | ShardedModel | None = None
        self._overlapped: OverlappedSum | None = None
        if several and settings.shard == "optimizer":
            self._shards = Shards(self.optimizer.parameters, group)
        elif several and settings.shard == "model":
            self._shards = Shards(list(self.model.parameters()), group)
            self._exchange = self._sharded = ShardedModel(self._working, self._shards, group)
        if self._shards:
            self.optimizer.keep(self._shards.own)
        if several and settings.reduce == "fast":
            self._overlapped = OverlappedSum(self.optimizer.parameters, group)
        elif several and not self._sharded:
            self._exchange = GradientExchange(self.optimizer.parameters, group)
        leaving = self._overlapped or self._exchange
        if isinstance(leaving, (OverlappedSum, GradientExchange)) and not self._recorded:  # what a device repeats calls nobody
            self._working.call_with_gradients(leaving.made)

    @property
    def state(self) -> TrainerState:
        """Where training stands, beside weights and moments."""
        return TrainerState(self.step, dict(self.replaced), dict(self.batch_cuts), self.whole_gradients)

    @state.setter
    def state(self, state: TrainerState) -> None:
        self.step, self.replaced, self.batch_cuts = state.step, dict(state.replaced), dict(state.batch_cuts)
        self.whole_gradients = state.whole_gradients

    def run_until(self, step: int) -> None:
        """Train until `step` updates have been made in all, or until `request_stop`.

        An update whose loss or gradient is not finite is not applied. Then `train.on_divergence` decides: UserError is raised
        (stop), DivergedError (rewind), or training goes on (skip).
        """
        self.model.train()
        self._reported_at = time.perf_counter()
        gc.freeze()  # all that is alive now stays alive until the end: the collector need not walk through it again and again
        try:
            while self.step < step and not (self._stop_agreed if self._group.size > 1 else self._stop_requested):
                with self._threads.applied():
                    self._update()
                if len(self._pending) >= REPORT_EVERY or self._is_known_to_diverge():
                    self._report()
            self._report()
            if self._sharded:
                self._sharded.collect()
            elif self._group.size > 1:
                self._group.require_same(self.optimizer.parameters)
        finally:
            gc.unfreeze()
            if self._recorded:
                self._recorded.forget()  # others need memory now, and may change what was recorded

    def computing_model(self) -> GPT2:
        """The model with the current weights in the dtype that training computes in: for evaluation, not to be changed."""
        self._working.refresh()
        return self._working.model

    def let_go_of_others(self) -> None:
        """Hold no more weights than those that this process keeps, where the processes share them out."""
        if self._sharded and self._sharded.is_whole:
            for callback in self.callbacks:
                callback.before_update()  # whoever still copies weights must be through with it
            self._sharded.scatter()

    def hold_all_weights(self) -> None:
        """Have memory for all weights, where other processes keep a part of them: they are filled next."""
        if self._sharded:
            self._sharded.allocate()

    def begin_update(self) -> None:
        """Let go of gradients that the next update will make anew."""
        self._working.begin_update()

    def gradient(self) -> Tensor:
        """Mean loss [] of the next update's batches, whose gradients are left in the model's `grad`.

        Where the memory does not suffice, the batch is split, so that the update sees the same windows in more and smaller
        batches. Raises UserError where a single window does not fit.
        """
        self.let_go_of_others()
        self._working.refresh()
        while True:
            self._cut_batches()
            try:
                with same_bits_every_time(self._device):
                    return self._gradient()
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
            self._cut_smaller()

    def request_stop(self) -> None:
        """End `run_until` after the update that is under way; safe to call from a signal handler."""
        self._stop_requested = True

    @property
    def stop_requested(self) -> bool:
        """Whether somebody asked to stop, in this process or another one of the group."""
        return self._stop_requested or self._stop_agreed

    def _update(self) -> None:
        rate = learning_rate(self.step, self.settings)
        loss = self.gradient()
        norms = self._sharded.gradient_norms(self.optimizer.parameters) if self._sharded else None
        norm = self.optimizer.clip(self.settings.clip or math.inf, norms)
        for callback in self.callbacks:
            callback.before_update()
        self._not_finite = ~(loss.isfinite() & norm.isfinite())
        self.optimizer.update(rate, left_out=self._not_finite)
        if self._shards and not self._sharded:
            self._shards.share()
        if self.optimizer.fills_copies:
            self._working.note_as_current()
        self.step += 1
        self._pending.append((loss, rate, norm))

    def _gradient(self) -> Tensor:
        if self._overlapped:
            return self._gradient_by_all_at_once(self._overlapped)
        if self._exchange:
            return self._gradient_by_all(self._exchange)
        self.begin_update()
        loss = torch.zeros((), device=self._device)
        for number in range(self.micro_batches):
            loss += self._accumulate(number, is_first=number == 0)
        return loss

    def _gradient_by_all(self, exchange: GradientExchange | ShardedModel) -> Tensor:
        exchange.begin()
        for number, made in self._group.rounds(self.micro_batches):
            self.begin_update()
            exchange.begin_round(made)
            exchange.add(self._batch_of_round(number, exchange))
        return exchange.finish()

    def _gradient_by_all_at_once(self, overlapped: OverlappedSum) -> Tensor:
        lacking, loss = False, torch.zeros((), device=self._device)
        overlapped.forget()
        self.begin_update()
        try:
            own = range(self._group.rank, self.micro_batches, self._group.size)
            for number in own:
                if number == own[-1]:
                    overlapped.begin()
                loss += self._accumulate(number, is_first=number == own[0])
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            lacking = True
        loss = overlapped.finish(loss)
        self._agree(lacking)
        return loss

    def _agree(self, lacking: bool) -> None:
        """With the other processes, on whether to stop; raises MemoryError in all where one of them lacks memory."""
        lacking, self._stop_agreed = self._group.any(lacking, self._stop_requested)
        if lacking:
            raise MemoryError("a process lacks memory")

    def _batch_of_round(self, number: int | None, exchange: GradientExchange | ShardedModel) -> Tensor:
        """The loss of this process's batch, if it makes one; MemoryError in every process where one of them lacks memory."""
        lacking, loss = False, torch.zeros((), device=self._device)
        try:
            if number is not None:
                loss = self._accumulate(number, is_first=True)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            lacking = True
        exchange.catch_up()
        self._agree(lacking)
        return loss

    def _cut_batches(self) -> None:
        """Cut the batches as they were cut when this update was first made, so that a resumed run makes the same one."""
        cut = max((pieces for update, pieces in self.batch_cuts.items() if update <= self.step), default=1)
        if self.micro_batches != self.settings.accumulate * cut:
            if self._recorded:
                self._recorded.forget()
            self.batches, self.micro_batches = self._whole.in_smaller_batches(cut), self.settings.accumulate * cut
            for callback in self.callbacks:
                callback.on_batch_cut(self.batches.batch_size, self.micro_batches)

    def _cut_smaller(self) -> None:
        """Halve the batches from this update on, or take the smallest other factor out of them."""
        size = self.batches.batch_size
        if size == 1:
            raise UserError(
                f"A single window of {self.model.config.n_ctx} tokens does not fit into memory: raise train.recompute_blocks, "
                "shorten model.n_ctx, or train less of the model (train.trainable); gpt2flow plan says what fits."
            )
        factor = next(number for number in range(2, size + 1) if size % number == 0)
        self.batch_cuts[self.step] = self.micro_batches // self.settings.accumulate * factor

    def _accumulate(self, number: int, is_first: bool) -> Tensor:
        """Add the gradient of the update's batch `number`, divided by how many there are, to those before, unless it is the
        first; return its share of the loss."""
        update = self.step + self.settings.steps * self.replaced.get(self.step, 0)  # others lie behind the run's own
        index = update * self.micro_batches + number
        text, targets = self.batches.at(index)
        inputs = add_noise(text, self.settings, index, self.model.config.n_vocab)
        batch = [copy_to(self._device, part) for part in (text, inputs, targets)]
        if self._drops:
            torch.manual_seed(mixed_seed(self.settings.seed, index))
        compute = self._gradient_of if is_first or not self.whole_gradients else self._added_whole
        return self._recorded.add(compute, is_first, *batch) if self._recorded else compute(*batch)

    def _added_whole(self, *batch: Tensor) -> Tensor:
        with self._working.sums_set_aside():
            return self._gradient_of(*batch)

    def _gradient_of(self, text: Tensor, inputs: Tensor, targets: Tensor) -> Tensor:
        mask = self._working.model.mask_for(text)  # noise neither makes documents nor joins them
        loss = self._working.model.loss(inputs, targets, mask) / self.micro_batches
        loss.backward()  # type: ignore[no-untyped-call]
        return loss.detach()

    def _report(self) -> None:
        if not self._pending:
            return
        values = torch.stack([torch.stack((loss, norm)) for loss, _, norm in self._pending]).tolist()
        first = self.step - len(self._pending) + 1
        updates = [
            StepMetrics(first + i, loss, rate, norm)
            for i, ((loss, norm), (_, rate, _)) in enumerate(zip(values, self._pending, strict=True))
        ]
        now = time.perf_counter()
        tokens = len(updates) * self.settings.accumulate * self.settings.batch_size * self.model.config.n_ctx
        speed = tokens / (now - self._reported_at)
        self._pending, self._reported_at = [], now
        self._judge(updates)
        done = StepsDone(updates, speed)
        for callback in self.callbacks:
            callback.on_steps_done(done)

    def _is_known_to_diverge(self) -> bool:
        """On the CPU nobody has to wait for the answer; elsewhere the report finds out."""
        return self._device.type == "cpu" and bool(self._not_finite)

    def _judge(self, updates: list[StepMetrics]) -> None:
        for update in updates:
            finite = math.isfinite(update.loss) and math.isfinite(update.gradient_norm)
            self._skipped = 0 if finite else self._skipped + 1
            if finite:
                continue
            for callback in self.callbacks:
                callback.on_not_finite(update)
            if self.settings.on_divergence == "rewind":
                raise DivergedError(update.step)
            if self.settings.on_divergence == "stop" or self._skipped >= SKIPS_IN_A_ROW:
                raise UserError(
                    f"The loss is no longer finite at step {update.step}: lower train.learning_rate "
                    f"({self.settings.learning_rate:g}) or raise train.warmup_steps, and run again."
                )


def mixed_seed(seed: int, index: int) -> int:
    """A 63-bit seed that is a function of both numbers and differs for neighbours."""
    low, high = np.random.SeedSequence((seed, index)).generate_state(2)
    return (int(high) << 32 | int(low)) >> 1
