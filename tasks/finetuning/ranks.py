"""The other processes of a run: started, told what comes next, and ended with it.

This process is the first of them: it has the run's folder, its checkpoints, evaluations and records. What the others do is in
`follow`.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch.distributed as dist

from configs.errors import UserError
from configs.schema import RunConfig, TrainSettings
from gpt2core.checkpoints.checkpoint import Checkpoint
from gpt2core.distributed.messages import Messages
from gpt2core.distributed.process_group import ALONE, ProcessGroup
from gpt2core.distributed.processes import describe_shares, idle_processes
from gpt2core.distributed.sameness import differences, what_decides
from gpt2core.store.token_store import TokenStore
from gpt2core.text.tokenizer import Tokenizer
from gpt2core.training.trainer import Trainer
from tasks.runs.run_folder import RunFolder
from tasks.terminal.console import begin, say, warn

HOST = "127.0.0.1"
PATIENCE = 10.0  # seconds in which a process ends by itself


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

    def announce(self, train: TrainSettings) -> None:
        """Say how they share the work, and whether some have to wait."""
        if self.group.size > 1:
            say("processes", describe_shares(self.group.size, train))
            if idle := idle_processes(self.group.size, train):
                warn("processes", idle)

    def _require_same(self, trainer: Trainer) -> None:
        own = what_decides(trainer.model.wte.weight.device, self._text)
        for rank, facts in self.group.messages.answers().items():
            if different := differences(own, facts):
                raise UserError(
                    f"Process {rank} of {self.group.size} would compute other bits than the first one: {'; '.join(different)}. "
                    "Give all the same."
                )
        self.group.require_same(trainer.model.parameters())

    def _say(self, verb: str, **details: Any) -> None:
        if self.group.size > 1:
            self.group.messages.say(verb, **details)


@contextmanager
def ranks_of(folder: RunFolder, train: TrainSettings) -> Iterator[Ranks]:
    """Inside, `train.processes` processes make the updates. They end when this one does, however it ends."""
    if train.processes <= 1:
        yield Ranks(folder)
        return
    begin("processes", f"starting {train.processes - 1} beside this one, their logs are in {folder.processes}")
    started = _Started(folder.processes, train)
    try:
        group = ProcessGroup(started.messages(), train.process_timeout)
        try:
            yield Ranks(folder, group)
            group.messages.say("end")
            started.wait()
        finally:
            group.close()
    finally:
        started.end()


class _Started:
    """The other processes, each in a session of its own, so that Ctrl-C reaches the first one alone."""

    def __init__(self, logs: Path, train: TrainSettings) -> None:
        self._size = train.processes
        listening = socket.create_server((HOST, 0))
        port = listening.getsockname()[1]
        self._store = dist.TCPStore(  # type: ignore[attr-defined]
            HOST, port, self._size, is_master=True, wait_for_workers=False, master_listen_fd=listening.detach()
        )
        os.environ["GLOO_SOCKET_IFNAME"] = loopback()
        logs.mkdir(parents=True, exist_ok=True)
        self._processes = {rank: self._start(rank, port, logs, train) for rank in range(1, self._size)}

    def messages(self) -> Messages:
        """To and from the others, when they are there."""
        found = Messages(self._store, 0, self._size, self.ended)
        found.answers()
        return found

    def ended(self) -> dict[int, str]:
        """Those that have ended, and how."""
        codes = {rank: process.poll() for rank, process in self._processes.items()}
        return {rank: _how(code) for rank, code in codes.items() if code is not None}

    def wait(self) -> None:
        """Until all have ended by themselves."""
        deadline = time.monotonic() + PATIENCE
        for process in self._processes.values():
            with suppress(subprocess.TimeoutExpired):
                process.wait(max(0.0, deadline - time.monotonic()))

    def end(self) -> None:
        """At once: they have nothing to save."""
        for process in self._processes.values():
            process.kill()
        for process in self._processes.values():
            process.wait()
            assert process.stdin is not None
            process.stdin.close()

    def _start(self, rank: int, port: int, logs: Path, train: TrainSettings) -> subprocess.Popen[bytes]:
        place = [HOST, str(port), str(rank), str(self._size), str(train.process_timeout)]
        command = [sys.executable, "-m", "tasks.finetuning.follow", *place]
        with (logs / f"process-{rank}.log").open("ab") as log:
            return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=log, stderr=log, start_new_session=True)


def loopback() -> str:
    """Name of the network interface through which processes of this machine reach one another."""
    return next(name for _, name in socket.if_nameindex() if name.startswith("lo"))


def _how(code: int) -> str:
    return f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
