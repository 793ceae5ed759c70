"""Train up to a milestone and save a checkpoint there."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager

from prefect import task
from prefect.cache_policies import NO_CACHE
from rich.progress import Progress, TaskID

from gpt2core.machine.allocator import return_freed_memory
from gpt2core.training.callback import Callback, StepsDone
from gpt2core.training.trainer import DivergedError
from tasks.finetuning.finetune_run import FinetuneRun
from tasks.finetuning.resume import rewind
from tasks.runs.flow_run_locks import note_progress
from tasks.terminal.console import training_bar
from tasks.terminal.stop_signals import finishing, received


@task(task_run_name="train_until_{step}", cache_policy=NO_CACHE, persist_result=False)
def train_until(run: FinetuneRun, step: int) -> None:
    """Make the updates up to `step` and begin to save a checkpoint there, which goes on beside what follows.

    SIGTERM and Ctrl-C end the current update, wait until its checkpoint is durable and raise Interrupted.
    """
    return_freed_memory()
    with finishing(run.trainer.request_stop):
        with _showing_progress(run):
            _train(run, step)
        run.checkpoints.save()
        if run.trainer.stop_requested:
            run.checkpoints.finish()
            if received() is None:  # another of the run's processes was told to stop, which means them all
                signal.raise_signal(signal.SIGTERM)


def _train(run: FinetuneRun, step: int) -> None:
    while True:
        try:
            run.ranks.run_until(step)
            return run.trainer.run_until(step)
        except DivergedError as diverged:
            rewind(run, diverged)


@contextmanager
def _showing_progress(run: FinetuneRun) -> Iterator[None]:
    trainer = run.trainer
    with training_bar() as bar:
        row = bar.add_task("", total=run.config.train.steps, completed=trainer.step, loss=float("nan"), rate=0.0, speed=0.0)
        shown = _ProgressBar(bar, row)
        trainer.callbacks.append(shown)
        try:
            yield
        finally:
            trainer.callbacks.remove(shown)


class _ProgressBar(Callback):
    def __init__(self, bar: Progress, row: TaskID) -> None:
        self._bar, self._row = bar, row

    def on_steps_done(self, done: StepsDone) -> None:
        note_progress()
        last = done.updates[-1]
        self._bar.update(self._row, completed=last.step, loss=last.loss, rate=last.learning_rate, speed=done.tokens_per_second)
