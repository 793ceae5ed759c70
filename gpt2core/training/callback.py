"""Hooks through which other code follows a training run."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class StepMetrics:
    """One optimizer update: its number (1 is the first), mean loss in nats, learning rate and gradient norm before clipping."""

    step: int
    loss: float
    learning_rate: float
    gradient_norm: float


@dataclass(frozen=True)
class StepsDone:
    """The updates since the last report, and how many tokens a second they consumed."""

    updates: list[StepMetrics]
    tokens_per_second: float


class Callback:
    """Base of those who look on; each hook does nothing unless it is overridden. Hooks are called in the training thread."""

    def on_steps_done(self, done: StepsDone) -> None:
        """Some updates were made; called every few steps and at the end of `run_until`."""

    def on_batch_cut(self, batch_size: int, micro_batches: int) -> None:
        """Memory did not suffice for a batch: from now on an update takes so many smaller ones."""

    def on_not_finite(self, update: StepMetrics) -> None:
        """Loss or gradient of the update are no numbers and it was left out; train.on_divergence is followed after this."""

    def before_update(self) -> None:
        """Gradients are there, weights are about to change: whoever still reads weights or moments can make training wait."""


class History(Callback):
    """Keeps the metrics of every update, for a notebook or a test."""

    def __init__(self) -> None:
        self.updates: list[StepMetrics] = []

    @property
    def losses(self) -> list[float]:
        """The loss of each update in nats."""
        return [update.loss for update in self.updates]

    def on_steps_done(self, done: StepsDone) -> None:
        """Keep them."""
        self.updates += done.updates
