"""Verbs that look after a workspace as a whole. Heavy libraries are imported inside them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter
from rich.console import Console

from configs.retention import RetentionSettings
from flows.cli.app import app
from gpt2core.machine.quantities import bytes_text
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


@app.command
def gc(
    *,
    dry_run: Annotated[bool, Parameter(name=["--dry_run", "--dry-run"])] = False,
    settings: Annotated[RetentionSettings, Parameter(name="*")] = RetentionSettings(),
) -> None:
    """Remove what no alias, version, unfinished or pinned run, open decision or lineage needs, after showing its size.

    Token stores, checkpoints of finished runs, versions beyond those that stay, files that MLflow has left. The latest finished
    run of each name and everything younger than --older_than stay. An alias keeps a version, `checkpoints --pin` a run.

    Example: `gpt2flow gc --dry_run`, then `gpt2flow gc --keep_versions 5 --older_than 30d`

    Parameters
    ----------
    dry_run
        Only show what would go.
    """
    workspace, console = Workspace.current().require(), Console(highlight=False)
    print(f"Looking through {workspace.root} and the registry ...", flush=True)
    from flows.pages.maintenance import print_leftovers
    from tasks.maintenance.collection import collect, find_leftovers
    from tasks.workspace.databases import prepare_databases

    prepare_databases(workspace)
    if dry_run:
        print_leftovers(console, find_leftovers(settings))
        console.print("Nothing was removed: this was a dry run.")
        return
    gone = collect(settings, show=lambda found: print_leftovers(console, found))
    if gone.rows:
        console.print(f"[green]✓[/] Removed: {bytes_text(gone.bytes)}.")
