"""Saving beside training: tensors are copied while the next update's gradients are computed, then written by a thread."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace

from torch import Tensor

from gpt2core.checkpoints.checkpoint import Snapshot
from gpt2core.training.callback import Callback
from gpt2core.training.trainer import Trainer


class BackgroundSaver(Callback):
    """At most one save at a time. Before its next update the trainer waits for the copy, but never for a write.

    Unless `beside`, there is no copy, and `save` returns when everything is written.
    """

    def __init__(self, trainer: Trainer, write: Callable[[Snapshot], None], beside: bool = True) -> None:
        self._write = write
        self._beside = beside
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None
        self._copied = threading.Event()
        self._copied.set()
        trainer.callbacks.append(self)

    def save(self, snapshot: Snapshot) -> None:
        """Begin to save a snapshot of the trainer's present tensors; the one before must have been waited for."""
        assert self._thread is None
        self._copied.clear()
        self._thread = threading.Thread(target=self._work, args=(snapshot,), name="checkpoint", daemon=True)
        self._thread.start()
        if not self._beside:
            self._thread.join()

    def before_update(self) -> None:
        """Wait for the copy, which had the time of forward and backward."""
        self._copied.wait()

    @property
    def busy(self) -> bool:
        """Whether a save is under way."""
        return self._thread is not None and self._thread.is_alive()

    def wait(self) -> bool:
        """Whether a save was completed since the last call; returns when none is under way, raises what went wrong."""
        if self._thread is None:
            return False
        self._thread.join()
        self._thread = None
        error, self._error = self._error, None
        if error is not None:
            raise error
        return True

    def _work(self, snapshot: Snapshot) -> None:
        try:
            try:
                own = _copied(snapshot) if self._beside else snapshot
            finally:
                self._copied.set()
            self._write(own)
        except BaseException as error:  # handed to whoever waits
            self._error = error


def _copied(snapshot: Snapshot) -> Snapshot:
    return replace(snapshot, weights=_copies(snapshot.weights), moments=_copies(snapshot.moments))


def _copies(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.to("cpu", copy=True) for name, tensor in tensors.items()}
