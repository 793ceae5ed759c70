"""A run's checkpoints: saved beside training, verified, pruned; a full disk pauses saving and not the training."""

from __future__ import annotations

import errno
import shutil
import time
from collections.abc import Callable
from pathlib import Path

from configs.errors import UserError
from configs.schema import RunConfig
from gpt2core.checkpoints.background_saver import BackgroundSaver
from gpt2core.checkpoints.checkpoint import Snapshot, find_checkpoints, find_damage, take_snapshot, write_checkpoint
from gpt2core.checkpoints.retention import prune
from gpt2core.checkpoints.weights import FROZEN
from gpt2core.machine.quantities import bytes_text
from gpt2core.text.tokenizer import Tokenizer
from gpt2core.training.callback import Callback, StepsDone
from gpt2core.training.ranking import costs_by_step
from gpt2core.training.trainer import Trainer
from tasks.evaluation.outside import OutsideEvaluation
from tasks.processes.ranks import Ranks
from tasks.runs.run_folder import RunFolder
from tasks.terminal.console import say, warn

SPARE_BYTES = 1 << 20  # for the small files


class CheckpointKeeper(Callback):
    """Saves the trainer's state; `state` gives what is recorded beside it."""

    def __init__(
        self,
        folder: RunFolder,
        config: RunConfig,
        trainer: Trainer,
        tokenizer: Tokenizer,
        state: Callable[[], dict[str, object]],
        outside: OutsideEvaluation,
        ranks: Ranks,
    ) -> None:
        self._folder = folder
        self._settings = config.train
        self._best_by = config.evaluate.best_by
        self._trainer = trainer
        self._tokenizer = tokenizer
        self._state = state
        self._saver = BackgroundSaver(trainer, self._write, config.train.save_beside)
        self._missed: int | None = None
        self._outside = outside
        self._ranks = ranks
        trainer.callbacks.append(self)

    def save(self) -> None:
        """Begin to save the trainer's present state; where the disk is full, say so once and let training go on.

        Raises UserError if the save before failed for another reason.
        """
        self._collect()
        step = self._trainer.step
        if not step:
            return
        if (lacking := self._lacking_bytes()) > 0:
            self._pause(step, f"{bytes_text(lacking)} are lacking in {self._folder.checkpoints}")
            return
        marks = {name: log.path.stat().st_size if log.path.exists() else 0 for name, log in self._folder.logs().items()}
        state = {**self._state(), "saved": round(time.time(), 3), "logs": marks}
        self._saver.save(take_snapshot(self._trainer, state, self._ranks.begin_to_save(self._trainer)))

    def wait(self) -> None:
        """Return when no save is under way any more; raises UserError if the last one failed and the disk is not just full."""
        self._collect()

    def finish(self) -> None:
        """Wait until the last save is durable; raises UserError if the state could not be saved."""
        self._collect()
        if self._missed is not None:
            self.save()
            self._collect()
        if self._missed is not None:
            raise UserError(
                f"The disk is full at {self._folder.checkpoints}, step {self._missed} is not saved: "
                "free some space and run the same command again."
            )

    def prune(self) -> None:
        """Remove the checkpoints that nothing gives a reason to keep; none while one of them is being evaluated."""
        if self._outside.reads_checkpoint:
            return
        costs = costs_by_step(self._folder.evaluations.rows(), self._best_by)
        prune(self._folder.checkpoints, self._settings, costs, self._folder.started)

    def announce_need(self, steps_between: int) -> None:
        """Say what the run's checkpoints will take; raises UserError where not even one fits beside its predecessor."""
        size, frozen = self._trainer.optimizer.checkpoint_bytes, self._frozen_bytes()
        saves = self._settings.steps // steps_between + 1
        count = min(self._settings.keep_checkpoints + self._settings.keep_best, saves)
        history = max(0, saves - count) * self._trainer.optimizer.weights_bytes if self._settings.keep_weights_history else 0
        have = len(find_checkpoints(self._folder.checkpoints))
        free = shutil.disk_usage(self._folder.path).free
        need = size * max(1, count + 1 - have) + history + frozen
        beside = {"weights alone": history, "frozen weights": frozen}
        others = "".join(f" and {bytes_text(taken)} of {what}" for what, taken in beside.items() if taken)
        say("disk", f"up to {count} checkpoints of {bytes_text(size)}{others}, {bytes_text(free)} are free")
        if free < size + frozen:
            raise UserError(
                f"A checkpoint takes {bytes_text(size + frozen)} and {self._folder.path} has {bytes_text(free)} free: "
                "free some space."
            )
        if free < need:
            warn("disk", f"{bytes_text(need - free)} will be lacking: free some space, or lower train.keep_checkpoints")

    def on_steps_done(self, _: StepsDone) -> None:
        """Save what a full disk has kept from being saved, as soon as there is room, and other processes are not needed."""
        if self._saver.busy or self._trainer.optimizer.is_shared_out:
            return
        self._collect()
        if self._missed is not None and self._lacking_bytes() <= 0:
            self.save()

    def _write(self, snapshot: Snapshot) -> None:
        """In the saver's thread. The logs come first: a durable checkpoint must find its rows there after a power cut."""
        logs = self._folder.logs()
        for log in logs.values():
            log.sync()
        marks = {name: logs[name].mark(length).model_dump() for name, length in snapshot.state["logs"].items()}
        snapshot.state["logs"] = marks
        checkpoint = write_checkpoint(self._folder.checkpoints, snapshot, self._tokenizer)
        if damage := find_damage(checkpoint):
            raise UserError(f"Checkpoint {checkpoint.path} was not written well ({damage}): is the disk failing?")
        self.prune()

    def _collect(self) -> None:
        try:
            if self._saver.wait() and self._missed is not None:
                warn("disk", "there is room again, and the checkpoint is saved")
                self._missed = None
        except UserError as error:
            if not _is_full_disk(error):
                raise
            self._pause(self._trainer.step, str(error).split(":")[0])

    def _pause(self, step: int, reason: str) -> None:
        if self._missed is None:
            kept = find_checkpoints(self._folder.checkpoints)
            last = f"the checkpoint of step {kept[-1].step} is kept" if kept else "there is no checkpoint yet"
            warn(
                "disk",
                f"saving pauses at step {step} ({reason}); {last}, training goes on, saving too as soon as there is room",
            )
        self._missed = step

    def _lacking_bytes(self) -> int:
        size = self._trainer.optimizer.checkpoint_bytes + self._frozen_bytes()
        return size + SPARE_BYTES - _free(self._folder.checkpoints)

    def _frozen_bytes(self) -> int:
        """What the weights that are stored once will take; nothing once they are."""
        stored = (self._folder.checkpoints / FROZEN).is_file()
        return 0 if stored else sum(4 * part.numel() for part in self._trainer.model.parameters() if not part.requires_grad)


def _free(path: Path) -> int:
    return shutil.disk_usage(path if path.exists() else path.parent).free


def _is_full_disk(error: UserError) -> bool:
    cause = error.__cause__
    return isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT)
