"""The other processes of a run: what they are told to do, and that they do it as this one does.

This process is the first of them: it has the run's folder, its checkpoints, evaluations and records. What the others do is in
`follow`, how they come to be in `started_processes` or, where torchrun starts them, in `meeting`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from configs.errors import UserError
from configs.schema import RunConfig, TrainSettings
from gpt2core.checkpoints.checkpoint import Checkpoint
from gpt2core.checkpoints.moments import OthersMoments
from gpt2core.distributed.launch import Launch
from gpt2core.distributed.messages import Messages
from gpt2core.distributed.process_group import ALONE, ProcessGroup
from gpt2core.distributed.processes import describe_shares, idle_processes
from gpt2core.distributed.sameness import require_same, what_decides
from gpt2core.store.token_store import TokenStore
from gpt2core.text.tokenizer import Tokenizer
from gpt2core.training.trainer import Trainer
from tasks.processes.meeting import meet
from tasks.processes.started_processes import StartedProcesses
from tasks.runs.run_folder import RunFolder
from tasks.terminal.console import begin, say, warn


class Ranks:
    """What the first process tells the others; nothing where it is alone."""

    def __init__(self, folder: RunFolder, group: ProcessGroup = ALONE) -> None:
        self.group = group
        self._folder = folder
        self._text = ""

    def build(self, config: RunConfig, base: Path | None, tokenizer: Tokenizer, store: TokenStore) -> None:
        """Have the others build the trainer that this process builds meanwhile."""
        if self.group.size == 1:
            return
        self._text = store.hash
        tokenizer.save(self._folder.processes)
        self._say(
            "build",
            config=config.model_dump(mode="json"),
            base=str(base.absolute()) if base else None,
            tokenizer=str(self._folder.processes.absolute()),
            store=str(store.path.absolute()),
            compiled=str((self._folder.path / "compiled").absolute()),
        )

    def restore(self, trainer: Trainer, checkpoint: Checkpoint | None) -> None:
        """Have the others begin where this process does; raises UserError where one of them is not the same."""
        if self.group.size == 1:
            return
        if not trainer.whole_gradients and trainer.micro_batches > 1:
            raise UserError(
                "The run was begun by gpt2flow 0.1, whose order of adding up the batches of an update needs one process: go on "
                "with train.processes 1, or begin it again with train.restore_from fresh."
            )
        path = str(checkpoint.path.absolute()) if checkpoint else None
        self._say("restore", checkpoint=path, state=asdict(trainer.state))
        self._require_same(trainer)

    def run_until(self, step: int) -> None:
        """Have the others make the updates that this process makes now."""
        self._say("run_until", step=step)

    def begin_to_save(self, trainer: Trainer) -> OthersMoments | None:
        """Have the others write what they keep of the optimizer's state, beside what comes next; None where they keep none."""
        return OthersMoments(self._folder.checkpoints, self.group.messages) if trainer.optimizer.is_shared_out else None

    def announce(self, train: TrainSettings) -> None:
        """Say how they share the work, and whether some have to wait."""
        if self.group.size > 1:
            say("processes", describe_shares(self.group.size, train))
            if idle := idle_processes(self.group.size, train):
                warn("processes", idle)

    def _require_same(self, trainer: Trainer) -> None:
        own = what_decides(trainer.model.wte.weight.device, self._text, trainer.any_threads)
        require_same(own, self.group.messages.answers())
        self.group.require_same(trainer.model.parameters())

    def _say(self, verb: str, **details: Any) -> None:
        if self.group.size > 1:
            self.group.messages.say(verb, **details)


@contextmanager
def ranks_of(folder: RunFolder, train: TrainSettings) -> Iterator[Ranks]:
    """Inside, `train.processes` processes make the updates. Those that this one starts end when it does, however it ends."""
    launch = Launch.of_environment()
    if train.processes <= 1:
        yield Ranks(folder)
    elif launch:
        with _met(meet(launch, train.process_timeout), train, launch.here) as group:
            yield Ranks(folder, group)
    else:
        begin("processes", f"starting {train.processes - 1} beside this one, their logs are in {folder.processes}")
        with StartedProcesses(folder.processes, train) as started, _met(started.messages(), train, train.processes) as group:
            yield Ranks(folder, group)
            started.dismiss()


@contextmanager
def _met(messages: Messages, train: TrainSettings, here: int) -> Iterator[ProcessGroup]:
    messages.say("meet", timeout=train.process_timeout)
    group = ProcessGroup(messages, train.process_timeout, here)
    try:
        yield group
    finally:
        group.close()
