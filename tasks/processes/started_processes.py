"""The other processes of a run on one machine: started by the first one, and ended with it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import torch.distributed as dist

from configs.schema import TrainSettings
from gpt2core.distributed.messages import Messages

HOST = "127.0.0.1"
PATIENCE = 10.0  # seconds in which a process ends by itself


class StartedProcesses:
    """Each in a session of its own, so that Ctrl-C reaches the first process alone."""

    def __init__(self, logs: Path, train: TrainSettings) -> None:
        self._size = train.processes
        listening = socket.create_server((HOST, 0))
        port = listening.getsockname()[1]
        self._store = dist.TCPStore(  # type: ignore[attr-defined]
            HOST, port, self._size, is_master=True, wait_for_workers=False, master_listen_fd=listening.detach()
        )
        self._messages = Messages(self._store, 0, self._size, self._ended)
        os.environ["GLOO_SOCKET_IFNAME"] = loopback()
        logs.mkdir(parents=True, exist_ok=True)
        self._processes = {rank: self._start(rank, port, logs, train) for rank in range(1, self._size)}

    def __enter__(self) -> StartedProcesses:
        return self

    def __exit__(self, *_: object) -> None:
        """End them at once: they have nothing to save."""
        for process in self._processes.values():
            process.kill()
        for process in self._processes.values():
            process.wait()
            assert process.stdin is not None
            process.stdin.close()

    def messages(self) -> Messages:
        """To and from the others, when they are there."""
        self._messages.answers()
        return self._messages

    def dismiss(self) -> None:
        """Tell them that this is the end, and wait until they have ended by themselves."""
        self._messages.say("end")
        deadline = time.monotonic() + PATIENCE
        for process in self._processes.values():
            with suppress(subprocess.TimeoutExpired):
                process.wait(max(0.0, deadline - time.monotonic()))

    def _ended(self) -> dict[int, str]:
        """Those that have ended, and how."""
        codes = {rank: process.poll() for rank, process in self._processes.items()}
        return {rank: _how(code) for rank, code in codes.items() if code is not None}

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
