"""Verbs that look at what goes on and at what was told. Heavy libraries are imported inside them."""

from __future__ import annotations

import sys
from pathlib import Path

from rich.console import Console

from configs.loading import load_config
from configs.schema import RunSettings
from flows.cli.app import Overrides, app
from tasks.workspace.folders import Workspace


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
