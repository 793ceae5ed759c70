"""Ends the temporary Prefect servers of gpt2flow processes that were killed and could not do it themselves."""

from __future__ import annotations

import os
from contextlib import suppress

import psutil

OWNER = "GPT2FLOW_OWNER"  # environment variable, inherited by the temporary server: process id and start time of who started it


def adopt_children() -> None:
    """Mark everything that this process starts from now on as its own."""
    os.environ[OWNER] = _identity(psutil.Process())


def stop_orphans() -> int:
    """Terminate marked Prefect servers whose owner is gone; returns how many."""
    stopped = 0
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            owner = process.environ().get(OWNER)
            if owner and any("prefect.server" in part for part in process.cmdline()) and not _is_alive(owner):
                process.terminate()
                stopped += 1
    return stopped


def _identity(process: psutil.Process) -> str:
    return f"{process.pid} {process.create_time()}"


def _is_alive(owner: str) -> bool:
    try:
        return _identity(psutil.Process(int(owner.split()[0]))) == owner
    except psutil.NoSuchProcess:
        return False
