"""Train up to a milestone and leave a checkpoint there."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from prefect import task
from prefect.cache_policies import NO_CACHE

from gpt2core.checkpoint import save_checkpoint
from gpt2core.trainer import StepsDone, Trainer
from tasks.console import say, training_bar
from tasks.open_run import FinetuneRun


class Interrupted(BaseException):
    """The run was asked to stop by a signal and has saved its state; not an error, so not an Exception."""

    def __init__(self, signal_number: int, advice: str) -> None:
        super().__init__(advice)
        self.signal_number = signal_number


@task(task_run_name="train_until_{step}", cache_policy=NO_CACHE, persist_result=False)
def train_until(run: FinetuneRun, step: int) -> None:
    """Make the updates up to `step`, then write a checkpoint.

    SIGTERM and Ctrl-C end the current update, checkpoint what is done and raise Interrupted.
    """
    trainer = run.trainer
    with _stopping_on_signals(trainer) as received, _showing_progress(run):
        trainer.run_until(step)
    if trainer.step:
        save_checkpoint(run.folder.checkpoints, trainer, run.tokenizer, run.state())
    if received:
        advice = f"Stopped at step {trainer.step}; its checkpoint is saved. The same command goes on from there."
        say("stopped", advice, mark="[yellow]■[/]")
        raise Interrupted(received[0], advice)


@contextmanager
def _stopping_on_signals(trainer: Trainer) -> Iterator[list[int]]:
    """While training, the first signal asks for a stop after the current update; a second one stops at once."""
    received: list[int] = []

    def note(number: int, _: FrameType | None) -> None:
        received.append(number)
        trainer.request_stop()
        for each, handler in before.items():
            signal.signal(each, handler)

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _showing_progress(run: FinetuneRun) -> Iterator[None]:
    trainer = run.trainer
    with training_bar() as bar:
        row = bar.add_task("", total=run.config.train.steps, completed=trainer.step, loss=float("nan"), rate=0.0, speed=0.0)

        def show(done: StepsDone) -> None:
            last = done.updates[-1]
            bar.update(row, completed=last.step, loss=last.loss, rate=last.learning_rate, speed=done.tokens_per_second)

        trainer.listeners.append(show)
        try:
            yield
        finally:
            trainer.listeners.remove(show)
