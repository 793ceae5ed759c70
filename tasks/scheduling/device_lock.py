"""One training at a time on each device of this machine, whoever starts it: by hand, by a schedule, from any workspace."""

from __future__ import annotations

import fcntl
import getpass
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import IO

import torch

from configs.errors import UserError
from configs.schema import RunConfig
from gpt2core.machine.devices import choose_device
from tasks.runs.flow_run_locks import note_progress
from tasks.terminal.console import begin

LOCKS = "GPT2FLOW_LOCKS"  # environment variable: the folder of the locks; one in the system's temporary folder unless given
LOOK_INTERVAL = 0.5  # seconds


class DeviceBusyError(UserError):
    """Another run trains on the device, and the config says not to wait for it."""


@contextmanager
def device_for(config: RunConfig) -> Iterator[None]:
    """Hold the device that the config trains on; wait for it, or raise DeviceBusyError, as schedule.when_busy says.

    The lock is the file system's, so a kill frees it.
    """
    device = _name(choose_device(config.train.device))
    with _file(device).open("a+", encoding="utf-8") as lock:
        if not _locked(lock):
            _stand_aside(config, device, lock)
        lock.truncate(0)
        lock.write(f"'{config.name}' (process {os.getpid()} since {datetime.now():%Y-%m-%d %H:%M:%S})")
        lock.flush()
        yield


def _stand_aside(config: RunConfig, device: str, lock: IO[str]) -> None:
    lock.seek(0)
    holder = lock.read() or "another run"
    if config.schedule.when_busy == "skip":
        raise DeviceBusyError(
            f"{device} is taken by {holder}: wait for it, or let the run wait with --schedule.when_busy queue."
        )
    begin("device", f"waiting until {device} is free: {holder} trains on it")
    while not _locked(lock):
        note_progress()  # standing in the queue is nothing that a watchdog should end
        time.sleep(LOOK_INTERVAL)


def _locked(lock: IO[str]) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _name(device: torch.device) -> str:
    return f"cuda:{device.index or 0}" if device.type == "cuda" else device.type


def _file(device: str) -> Path:
    folder = Path(os.environ.get(LOCKS) or Path(tempfile.gettempdir()) / f"gpt2flow-{getpass.getuser()}")
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f"{device.replace(':', '-')}.lock"
