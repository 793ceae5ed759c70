"""Starts a night when the text in a folder has changed and then been left alone for a while."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

from httpx import HTTPError
from prefect.exceptions import PrefectException
from watchfiles import watch

from configs.errors import UserError
from tasks.scheduling.deployments import nights_that_read, trigger
from tasks.terminal.console import say, warn

LOOK_INTERVAL = 200  # milliseconds


def watch_folder(folder: Path, settle: float) -> None:
    """Trigger the deployments that read the folder each time that nothing has changed for `settle` seconds after a change.

    Does not return. Raises UserError where there is no such folder, or no deployment reads it.
    """
    if not folder.is_dir():
        raise UserError(f"The folder {folder} is not there: give the folder that a deployment's data.source names.")
    if not (names := nights_that_read(folder)):
        raise UserError(f"No deployment reads {folder}: make one with gpt2flow deploy CONFIG --data.source {folder}.")
    say("watch", f"{folder} for {', '.join(names)}; Ctrl-C ends it")
    for changes in settled_changes(folder, settle):
        _trigger_all(folder, changes)


def settled_changes(folder: Path, settle: float) -> Iterator[int]:
    """How many changes there were, each time that none has come for `settle` seconds after the last of them."""
    count, last = 0, 0.0
    for changes in watch(folder, rust_timeout=LOOK_INTERVAL, yield_on_timeout=True):
        if changes:
            count, last = count + len(changes), time.monotonic()
        elif count and time.monotonic() - last >= settle:
            yield count
            count = 0


def _trigger_all(folder: Path, changes: int) -> None:
    """A server that is away is asked again at the next change; until then the schedule finds what is new."""
    try:
        for name in nights_that_read(folder):
            say("watch", f"{changes:,} change{'s' if changes > 1 else ''}: '{trigger(name).name}' of {name} begins")
    except (HTTPError, PrefectException) as error:
        warn("Prefect", f"its server is away ({type(error).__name__}): nothing was started")
