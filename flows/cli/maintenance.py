"""Verbs that look after a workspace as a whole. Heavy libraries are imported inside them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Literal

from rich.console import Console

from flows.cli.app import app
from tasks.workspace.folders import Workspace


@app.command
def backup(file: Path | None = None, /, *, scope: Literal["everything", "records", "databases"] = "everything") -> None:
    """Copy the workspace into one file, consistent although runs and servers go on, and read back before it counts.

    A file of that name is replaced when the new one is whole. Text and base models outside the workspace are not in it.

    Example: `gpt2flow backup /mnt/other-disk/gpt2flow.tar`

    Parameters
    ----------
    file
        The file to write (a tar); one named by the time in the current folder unless given.
    scope
        everything; records: without checkpoints and token stores, so unfinished runs begin again and text is encoded again;
        databases: those of Prefect and MLflow alone.
    """
    from flows.pages.maintenance import print_backup
    from tasks.maintenance.backup import back_up, default_name

    workspace = Workspace.current()
    print(f"Copying {workspace.root} ...", flush=True)
    print_backup(Console(highlight=False), back_up(workspace, file or default_name(workspace), scope))


@app.command
def restore(file: Path, /) -> None:
    """Put a backup in the place of the workspace, which nobody may use meanwhile; what was there before is kept beside it.

    Every file is verified before anything is replaced. What a kill interrupts later, the next command finishes.

    Example: `gpt2flow restore /mnt/other-disk/gpt2flow.tar`

    Parameters
    ----------
    file
        What `gpt2flow backup` has written.
    """
    from flows.pages.maintenance import print_restored
    from tasks.maintenance.backup import restore as put_back

    workspace = Workspace.current()
    print(f"Verifying {file} ...", flush=True)
    restored = put_back(workspace, file)
    if not print_restored(Console(highlight=False), workspace, restored):
        sys.exit(1)
