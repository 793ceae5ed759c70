"""What an update will need in memory, what fits, and how to stay within a limit: said before anything is allocated.

The tensors are counted by a rehearsal; what libraries and allocator take beside them is measured on a few blocks.
benchmarks/memory.py compares the sum with the measured peak of real processes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from configs.errors import UserError
from gpt2core.machine.quantities import gigabytes
from gpt2core.memory.dry_run import Footprint, rehearse
from gpt2core.memory.evaluation import evaluation_bytes
from gpt2core.memory.trial_run import FEW_BLOCKS, is_small, measure, with_blocks
from gpt2core.memory.workload import Workload
from gpt2core.model.linear_cross_entropy import OWN_CHUNK

ASSUMED_EXTRA = 0.05
"""Share of the tensors that libraries and allocator are taken to need where that cannot be measured."""
EVALUATION_EXTRA = 0.15
"""Share of an evaluation's tensors, mostly in float32, that they are taken to need (measured: 0.1)."""
EXCHANGE_EXTRA = 0.1
"""Share of the tensors that the allocator wastes on a CPU where several processes exchange them (measured: 0.05 to 0.2)."""
ENOUGH_TOKENS = 4096
"""Tokens in a batch beyond which a CPU is no faster and only needs more memory."""
CLOSE = 1.2
"""Times the memory there is: where more is needed, nothing is tried out."""
SPARE = 0.05
"""Share of the tensors by which a prediction may be wrong without passing a limit."""
SPARE_EXTRA = 0.2
"""Share of the extra by which it differs from one process to the next: what the allocator wastes is partly chance."""


@dataclass(frozen=True)
class Need:
    """Bytes at the fullest moment of training. `process` is what the program holds before, `extra` what libraries take, and
    `evaluation` the tensors of an evaluation beside what stands."""

    footprint: Footprint
    process: int
    extra: int
    saves_beside: bool = True
    evaluation: int = 0
    copies_here: bool = True
    """Whether the copy from which a checkpoint is saved takes of this memory: from an accelerator it goes to the machine's."""

    @property
    def tensors(self) -> int:
        """The most that tensors take in training or in an evaluation between two updates."""
        return max(self.footprint.peak, self.footprint.standing + self.evaluation)

    @property
    def peak(self) -> int:
        """The most that the process will hold, a checkpoint being saved beside training included."""
        copied = self.footprint.snapshot if self.saves_beside and self.copies_here else 0
        return self.process + self.tensors + self.extra + copied

    @property
    def outside(self) -> int:
        """What an evaluation in a process of its own holds, beside this one."""
        return self.process + self.footprint.whole + self.evaluation

    @property
    def with_spare(self) -> int:
        """The peak and what it may be wrong by."""
        return self.peak + int(SPARE * self.tensors + SPARE_EXTRA * self.extra)


@dataclass(frozen=True)
class Thrift:
    """What keeps training within a limit: blocks that are recomputed, and whether checkpoints are saved beside training."""

    recompute_blocks: int
    saves_beside: bool
    need: Need


def predict(work: Workload, process: int, saves_beside: bool = True, measured: bool = True) -> Need:
    """What training will need; unless `measured` (which takes seconds), the extra is assumed."""
    footprint = rehearse(work)
    extra = extra_bytes(work) if measured else int(ASSUMED_EXTRA * footprint.peak)
    evaluation = evaluation_bytes(work)
    on_cuda = work.device.type == "cuda"
    if not on_cuda:
        extra = max(extra, int(EVALUATION_EXTRA * evaluation))
    if not on_cuda and work.settings.processes > 1 and work.settings.shard != "model":
        extra += int(EXCHANGE_EXTRA * footprint.peak)
    if extra < 0:  # compiled blocks keep less than those that are rehearsed
        less = {"activations": max(0, footprint.activations + extra), "peak": footprint.peak + extra}
        footprint, extra = replace(footprint, **less), 0
    return Need(footprint, process, extra, saves_beside and work.settings.save_beside, evaluation, not on_cuda)


def extra_bytes(work: Workload) -> int:
    """What libraries and allocator take beside the tensors, measured: on the whole model where that is small.

    Less than nothing where compiled blocks keep less than those that are rehearsed.
    """
    if is_small(work) and (found := _beside_tensors(work)) is not None:
        return found
    return extra_of_blocks(work)


def extra_of_blocks(work: Workload) -> int:
    """The same, concluded from what two and four blocks take.

    It grows with the blocks: on a CPU beyond the fourth about half as fast as before (see benchmarks/memory.py), and on CUDA,
    where it is a matter of tensors alone, with every one.
    """
    n_layer = work.config.n_layer
    two, four = (_beside_tensors(with_blocks(work, min(blocks, n_layer))) for blocks in FEW_BLOCKS)
    if two is None or four is None:
        return int(ASSUMED_EXTRA * rehearse(work).peak)
    more, a_block = max(0, n_layer - 4), (four - two) / 2
    if work.device.type == "cuda":
        return int(four + more * a_block)
    return int(four + more * max(0, a_block) / 2)


def _beside_tensors(work: Workload) -> int | None:
    work = work.with_settings(processes=1)  # several have the same libraries, and are not tried out
    found = measure(work)
    if found is None:
        return None
    beside = found.peak - rehearse(work).peak
    return beside if work.device.type == "cuda" else max(0, beside)


def at_most(work: Workload) -> int:
    """Bytes that the tensors of training and evaluation surely stay under: a rough bound that takes no time.

    It spares nearly every run a rehearsal. The tests hold it against rehearsals of many kinds of work.
    """
    config, settings = work.config, work.settings
    width, rows = config.n_embd, max(settings.batch_size, len(work.evaluation.prompts) if work.evaluation else 1)
    parameters = config.n_layer * (12 * width + 13) * width + (config.n_vocab + config.n_ctx + 2) * width
    adapted = config.n_layer * 20 * width * settings.lora.rank
    attention = 16 * config.n_head * config.n_ctx if config.dropout else 0  # which PyTorch keeps whole to drop parts of it
    a_token = config.n_layer * (160 * width + attention) + 40 * width
    logits = 40 * config.n_vocab * (OWN_CHUNK + 4 * config.n_layer + 64)
    masks = 16 * rows * config.n_ctx**2 if work.mask_documents else 0
    return 48 * (parameters + adapted) + a_token * rows * config.n_ctx + logits + masks


def foresee(work: Workload, process: int, budget: int) -> Need:
    """What training will need, tried out for what libraries take where that decides whether it stays within `budget`."""
    need = predict(work, process, measured=False)
    if need.with_spare <= budget or need.peak > CLOSE * budget:
        return need
    return predict(work, process)


def remedy(work: Workload, budget: int, process: int) -> str:
    """What to change of work that does not stay within `budget` bytes, in a sentence."""
    ways, most = [], largest_batch(work, budget, process)
    if 0 < most < work.settings.batch_size:
        size, parts = in_parts(work.settings.batch_size, most)
        parts *= work.settings.accumulate
        ways.append(f"train.batch_size {size} with train.accumulate {parts} (or train.batch_size auto)")
    if thriftiest(work, process, measured=False).with_spare <= budget and not work.settings.memory_limit:
        ways.append(f"train.memory_limit {budget // 10**8 / 10:g}GB, which recomputes blocks and saves without a copy")
    if ways:
        return f"Use {', or '.join(ways)}."
    return "Not even a single window fits: take a smaller model, or train less of it (train.trainable lora)."


def in_parts(windows: int, most: int) -> tuple[int, int]:
    """Size and number of the fewest equal batches of at most `most` windows that make up so many, or hardly more."""
    parts = -(-windows // most)
    return -(-windows // parts), parts


def keep_within(limit: int, work: Workload, process: int) -> Thrift:
    """The fastest way to train within `limit` bytes that gives the same weights, bit for bit.

    Raises UserError with the minimum where recomputing every block but the last (which would save nothing) does not help. What
    libraries take is measured at both ends, and between them only where the tensors leave room for the smaller of both.
    """
    train, most = work.settings, _most_recomputed(work)
    # To wait for a checkpoint costs seconds a save, a recomputed block costs a share of every update.
    full = predict(work, process)
    if full.with_spare <= limit:
        return Thrift(train.recompute_blocks, full.saves_beside, full)

    least = thriftiest(work, process)
    if least.with_spare > limit:
        raise UserError(
            f"train.memory_limit is {gigabytes(limit)}, but this training needs at least {gigabytes(least.with_spare)}: raise "
            f"the limit to that, or lower train.batch_size ({train.batch_size}) and raise train.accumulate as much."
        )
    extra = min(full.extra, least.extra)
    for blocks in range(train.recompute_blocks, most):
        recomputing = work.with_settings(recompute_blocks=blocks)
        if replace(least, footprint=rehearse(recomputing), extra=extra).with_spare <= limit:
            need = predict(recomputing, process, saves_beside=False)
            if need.with_spare <= limit:
                return Thrift(blocks, False, need)
    return Thrift(most, False, least)


def thriftiest(work: Workload, process: int, measured: bool = True) -> Need:
    """The least that the same batch can do with."""
    recomputing = work.with_settings(recompute_blocks=_most_recomputed(work))
    return predict(recomputing, process, saves_beside=False, measured=measured)


def _most_recomputed(work: Workload) -> int:
    """All blocks but the last: to recompute that one too would save nothing."""
    return max(work.settings.recompute_blocks, work.config.n_layer - 1)


def largest_batch(work: Workload, budget: int, process: int) -> int:
    """The most windows in a batch with which training stays within `budget` bytes; 0 if not one does.

    Above one part of the loss, memory grows in proportion to the batch, so two rehearsals tell all.
    """

    def need(size: int) -> int:
        return predict(work.with_settings(batch_size=size), process, measured=False).with_spare

    small = -(-OWN_CHUNK // work.config.n_ctx)
    if need(small) > budget:
        fitting = [size for size in range(1, small) if need(size) <= budget]
        return max(fitting, default=0)
    return small + (budget - need(small)) * small // (need(2 * small) - need(small))


def choose_batch(work: Workload, budget: int, process: int) -> Workload:
    """The same work with the batch and accumulation that make up `tokens_per_step`, in the largest batches of use that fit.

    Where that can be, they are shared out evenly among processes. Raises UserError where a single window does not fit.
    """
    settings, n_ctx = work.settings, work.config.n_ctx
    windows = max(1, settings.tokens_per_step // n_ctx)
    share = windows // settings.processes if settings.processes and windows % settings.processes == 0 else windows
    most = max(1, ENOUGH_TOKENS // n_ctx) if work.device.type == "cpu" else share
    size = min(share, most, largest_batch(work, budget, process))
    if not size:
        least = predict(work.with_settings(batch_size=1), process, measured=False).with_spare
        raise UserError(
            f"A single window of {n_ctx} tokens needs {gigabytes(least)} and there are {gigabytes(budget)}: "
            "raise train.recompute_blocks, shorten model.n_ctx, train less of the model (train.trainable)."
        )
    size = next(divisor for divisor in range(size, 0, -1) if share % divisor == 0)
    return work.with_settings(batch_size=size, accumulate=windows // size)
