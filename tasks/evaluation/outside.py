"""A run's evaluations outside of its own process, at most one at a time."""

from __future__ import annotations

from typing import Literal

from tasks.evaluation.by_worker import WorkerEvaluation, hand_to_worker
from tasks.evaluation.checkpoint import EvaluationRow
from tasks.evaluation.in_process import ProcessEvaluation
from tasks.runs.run_folder import RunFolder


class OutsideEvaluation:
    """Begun for a step, then either joined or stopped."""

    def __init__(self, folder: RunFolder, where: Literal["inline", "process", "worker"]) -> None:
        self._folder = folder
        self._begin = hand_to_worker if where == "worker" else ProcessEvaluation
        self._current: ProcessEvaluation | WorkerEvaluation | None = None
        self.reads_checkpoint = False
        """Whether a checkpoint may be read there, so that none may go; after a stop too, since a worker is left alone."""

    def begin(self, step: int) -> None:
        """Begin to evaluate the step's checkpoint in another process or by a worker."""
        assert self._current is None
        self.reads_checkpoint = True
        self._current = self._begin(self._folder, step)

    def join(self) -> EvaluationRow | None:
        """The figures, which are waited for; None where none were asked for."""
        if self._current is None:
            return None
        row, self._current = self._current.join(), None
        self.reads_checkpoint = False
        return row

    def stop(self) -> int | None:
        """Give up what is under way, if anything is; returns its step."""
        if self._current is None:
            return None
        self._current.stop()
        step, self._current = self._current.step, None
        return step
