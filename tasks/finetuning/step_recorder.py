"""Writes what the trainer reports to the run's folder, and tells the user of losses that are out of the ordinary."""

from __future__ import annotations

import math
import time
from dataclasses import asdict

from gpt2core.training.callback import Callback, StepMetrics, StepsDone
from gpt2core.training.loss_spikes import LossSpikes
from tasks.runs.run_folder import RunFolder
from tasks.terminal.console import warn


class StepRecorder(Callback):
    """A spiking loss stands as `loss_spike`, the nats it rose by, in its step's row."""

    def __init__(self, folder: RunFolder) -> None:
        self._folder = folder
        self._spikes = LossSpikes()
        self._last = 0
        self._in_series = False

    def on_steps_done(self, done: StepsDone) -> None:
        """Append the updates to the metrics file, their throughput to the timing file."""
        first, last = done.updates[0].step, done.updates[-1].step
        if first != self._last + 1:  # the run begins, goes on or was rewound
            self._spikes = LossSpikes(row["loss"] for row in self._folder.metrics.rows())
        self._last = last
        now = round(time.time() * 1000)  # MLflow dates the metrics by it, and recognises by the date what it has already
        self._folder.timing.append([{"step": last, "tokens_per_second": done.tokens_per_second, "time": now}])
        self._folder.metrics.append([self._row(update) for update in done.updates])

    def _row(self, update: StepMetrics) -> dict[str, float]:
        rise = self._spikes.rise(update.loss)
        if rise is not None and not self._in_series:
            warn("loss", f"step {update.step} has a spike: {update.loss:.3f}, {rise:.3f} above what the steps before had")
        if not (math.isfinite(update.loss) and math.isfinite(update.gradient_norm)):
            warn("divergence", f"the loss or its gradient is not finite at step {update.step}: this update is left out")
        self._in_series = rise is not None
        return asdict(update) if rise is None else {**asdict(update), "loss_spike": rise}
