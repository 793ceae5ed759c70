"""Makes work fit: the batch where it is left open, and what staying within a limit takes. A run and its plan both ask here."""

from __future__ import annotations

from dataclasses import dataclass

from configs.errors import UserError
from gpt2core.memory.plan import CLOSE, Thrift, choose_batch, keep_within, predict
from gpt2core.memory.trial_run import measure, seconds_per_update
from gpt2core.memory.workload import Workload


@dataclass(frozen=True)
class Fit:
    """Work with its batch decided. `thrift` is what a limit takes, if there is one; `refusal` says why it cannot be, if so."""

    work: Workload
    thrift: Thrift | None = None
    refusal: str = ""


def fit(work: Workload, budget: int, process: int, tried_out: bool = True) -> Fit:
    """Choose a batch for `budget` bytes, if none is set, and obey `memory_limit`, if one is; takes seconds.

    `process` is what the program holds beside the model. With `tried_out` a chosen batch has made real updates, in as much
    memory as a run will take. Work that cannot fit comes back as small as it could be made.
    """
    try:
        if not work.settings.batch_size:
            work = _in_batches_that_fit(work, budget, process, tried_out)
    except UserError as error:
        parts = max(1, work.settings.tokens_per_step // work.config.n_ctx)
        return Fit(work.with_settings(batch_size=1, accumulate=parts), refusal=str(error))
    if not work.settings.memory_limit:
        return Fit(work)
    try:
        thrift = keep_within(work.settings.memory_limit, work, process)
    except UserError as error:
        return Fit(work, refusal=str(error))
    save_beside = thrift.saves_beside and work.settings.save_beside
    return Fit(work.with_settings(recompute_blocks=thrift.recompute_blocks, save_beside=save_beside), thrift)


def _in_batches_that_fit(work: Workload, budget: int, process: int, tried_out: bool) -> Workload:
    """The same work in batches that fit; raises UserError where a single window does not."""
    chosen = choose_batch(work.with_settings(batch_size=1, accumulate=1), budget, process)
    while tried_out and ((found := measure(chosen)) is None or process + found.peak > budget):
        size = chosen.settings.batch_size
        if size == 1 and found is None:
            raise UserError("A single window does not fit into memory in a trial: take a smaller model or model.n_ctx.")
        if size == 1:  # a limit, which recomputing may still obey
            break
        factor = next(number for number in range(2, size + 1) if size % number == 0)
        chosen = chosen.with_settings(batch_size=size // factor, accumulate=chosen.settings.accumulate * factor)
    return chosen


def seconds_where_it_fits(work: Workload, budget: int, process: int) -> float | None:
    """Seconds of an update, tried out; None of work that needs far more than `budget` bytes, or does not fit in the trial."""
    return seconds_per_update(work) if predict(work, process, measured=False).peak < CLOSE * budget else None
