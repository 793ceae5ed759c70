"""One training at a time on each device of this machine, whoever starts it: by hand, by a schedule, from any workspace."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import datetime
from pathlib import Path

from configs.errors import UserError
from configs.schema import RunConfig, TrainSettings
from gpt2core.distributed.processes import processes_here
from gpt2core.machine.devices import choose_device, visible_gpus
from gpt2core.machine.lock import locked
from tasks.runs.flow_run_locks import note_progress
from tasks.terminal.console import begin

LOCKS = "GPT2FLOW_LOCKS"  # environment variable: the folder of the locks; one in the system's temporary folder unless given
LOOK_INTERVAL = 0.5  # seconds


class DeviceBusyError(UserError):
    """Another run trains on the device, and the config says not to wait for it."""


@contextmanager
def device_for(config: RunConfig) -> Iterator[None]:
    """Hold the devices that the config trains on; wait for it, or raise DeviceBusyError, as schedule.when_busy says.

    The lock is the file system's, so a kill frees it.
    """
    with ExitStack() as stack:
        for device in _names(config.train):
            file = _file(device)
            if not _is_taken(file, stack):
                _stand_aside(config, device, file, stack)
            holder = f"'{config.name}' (process {os.getpid()} since {datetime.now():%Y-%m-%d %H:%M:%S})"
            file.write_text(holder, encoding="utf-8")
        yield


def _stand_aside(config: RunConfig, device: str, file: Path, stack: ExitStack) -> None:
    holder = file.read_text(encoding="utf-8") or "another run"
    if config.schedule.when_busy == "skip":
        raise DeviceBusyError(f"{device} is taken by {holder}: wait for it, or let the run wait: --schedule.when_busy queue.")
    begin("device", f"waiting until {device} is free: {holder} trains on it")
    while not _is_taken(file, stack):
        note_progress()  # standing in the queue is nothing that a watchdog should end
        time.sleep(LOOK_INTERVAL)


def _is_taken(file: Path, stack: ExitStack) -> bool:
    """Whether this process has the lock now, until the stack is closed."""
    with suppress(BlockingIOError):
        stack.enter_context(locked(file, wait=False))
        return True
    return False


def _names(train: TrainSettings) -> list[str]:
    """Of all its processes on this machine, in one order for every run, so that no two wait for each other."""
    device = choose_device(train.device)
    if device.type != "cuda":
        return [device.type]
    first, gpus = device.index or 0, visible_gpus()  # by the machine's numbers: workers of a cluster see one GPU each
    return [f"cuda:{gpus[number]}" for number in range(first, first + processes_here(train))]


def _file(device: str) -> Path:
    folder = Path(os.environ.get(LOCKS) or Path(tempfile.gettempdir()) / f"gpt2flow-{os.getuid()}")
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f"{device.replace(':', '-')}.lock"
