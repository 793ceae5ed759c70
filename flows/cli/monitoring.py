"""Verbs that look at what goes on and at what was told. Heavy libraries are imported inside them."""

from __future__ import annotations

import sys
from json import dumps
from pathlib import Path

from rich.console import Console

from configs.errors import UserError
from configs.loading import load_config
from configs.schema import RunSettings
from flows.cli.app import Overrides, app
from tasks.workspace.folders import Workspace


@app.command
def status(run: str | None = None, /, *, live: bool = False, json: bool = False) -> None:
    """Say how runs stand: curves, speed, time left, memory, samples, checkpoints; what starts next, and what was told.

    Example: `gpt2flow status demo --live`

    Parameters
    ----------
    run
        The run's id or name; all that are under way unless given, or the latest one.
    live
        Show it anew every two seconds, until Ctrl-C or the end of RUN.
    json
        As JSON, for programs.
    """
    from tasks.runs.find import find_run

    workspace, console = Workspace.current().create(), Console(highlight=False)
    found = find_run(workspace, run) if run else None
    if json:
        from tasks.monitoring.status import next_nights, status_of

        print(dumps(status_of(workspace, found, next_nights(workspace)).as_json(), ensure_ascii=False))
        return
    if live and not console.is_terminal:
        raise UserError("--live needs a terminal: use --json to look again and again from a program.")
    from flows.pages.status import print_status, show_live

    (show_live if live else print_status)(console, workspace, found)


@app.command
def alerts(*, test: Path | None = None, settings: Overrides = RunSettings()) -> None:
    """List what was told of runs and nights, the newest last; --test CONFIG tries who is told.

    Example: `gpt2flow alerts --test configs/demo.yaml --alerts.addresses env:MY_HOOK`

    Parameters
    ----------
    test
        Send a test to everybody whom this config names, and say how it went; the exit code is 1 if one did not take it.
    """
    if test is not None:
        config = load_config(test, settings.model_dump(exclude_unset=True))
        Workspace.current().create()  # before Prefect is imported, which warns where its home cannot be made
        from tasks.alerts.announcer import receivers, try_receivers

        if not receivers(config.alerts):
            print("The config names nobody who is told: see alerts.addresses, alerts.commands and alerts.file.")
        sys.exit(0 if try_receivers(config.alerts, config.name) else 1)
    from flows.pages.alerts import print_alerts

    print_alerts(Console(highlight=False))
