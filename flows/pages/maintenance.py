"""What backup, restore and gc say."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from configs.addresses import shown
from gpt2core.machine.quantities import bytes_text
from tasks.maintenance.backup import Backup, Restored
from tasks.maintenance.collection import Leftovers
from tasks.workspace.databases import prepare_databases
from tasks.workspace.elsewhere import artifact_root
from tasks.workspace.folders import Workspace

NAMES = {"prefect": "Prefect", "mlflow": "MLflow"}


def print_backup(console: Console, backup: Backup) -> None:
    """What is in it, and what is not."""
    _print_parts(console, backup)
    size = bytes_text(backup.file.stat().st_size)
    console.print(f"[green]✓[/] {backup.file}: {size}, read back and whole. gpt2flow restore puts it back.", soft_wrap=True)
    _warn_elsewhere(console, backup)
    root = artifact_root(Workspace.current())
    if not root.startswith("file:"):
        console.print(f"[yellow]![/] MLflow's files are not in it: {shown(root)} has them.", soft_wrap=True)


def print_restored(console: Console, workspace: Workspace, restored: Restored) -> bool:
    """What was put back, and whether every model that an alias names loads; False if one does not."""
    _print_parts(console, restored.backup)
    made = restored.backup.contents.made.replace("T", " ")
    console.print(f"[green]✓[/] {workspace.root} is as it was at {made}.", soft_wrap=True)
    if restored.before:
        console.print(f"  What was there before is kept until you delete it: {restored.before.parent}", soft_wrap=True)
    _warn_elsewhere(console, restored.backup)
    return _print_registry(console, workspace, restored.backup)


def print_leftovers(console: Console, found: Leftovers) -> None:
    """What nothing needs, why, and what it takes; then what a person could give up."""
    table = Table("", "", "may go because", "size", box=None, padding=(0, 2, 0, 0), header_style="dim")
    table.columns[3].justify = "right"
    for row in found.rows:
        table.add_row(row.kind, row.name, row.why, bytes_text(row.bytes))
    if found.rows:
        console.print(table)
        console.print(f"{len(found.rows):,} in all: {bytes_text(found.bytes)}")
    else:
        console.print("[green]✓[/] There is nothing that nothing needs.")
    if found.unfinished:
        stay = "1 unfinished run stays" if len(found.unfinished) == 1 else f"{len(found.unfinished)} unfinished runs stay"
        remedy = "gpt2flow resume goes on, --abandoned_after 30d gives up what was left so long"
        console.print(f"  {stay}, with {bytes_text(found.held_by_unfinished)} of checkpoints: {remedy}.", soft_wrap=True)


def _print_parts(console: Console, backup: Backup) -> None:
    table = Table("", "files", "size", box=None, padding=(0, 2, 0, 0), show_header=False)
    for part, (files, size) in backup.sizes().items():
        table.add_row(part, f"{files:,} file{'s' if files > 1 else ''}", bytes_text(size))
    console.print(table)


def _warn_elsewhere(console: Console, backup: Backup) -> None:
    for library in backup.contents.elsewhere:
        name = NAMES[library]
        console.print(f"[yellow]![/] {name}'s database is not in it: a server of yours has it (for PostgreSQL: pg_dump).")


def _print_registry(console: Console, workspace: Workspace, backup: Backup) -> bool:
    if backup.contents.elsewhere or "mlflow/mlflow.db" not in backup.contents.files:
        return True
    prepare_databases(workspace)
    from tasks.promotion.versions import damaged_aliases

    found = list(damaged_aliases())
    for model, alias, problem in found:
        if problem:
            console.print(f"[red]✗[/] models:/{model}@{alias}: {problem}", soft_wrap=True)
    console.print(f"[green]✓[/] Aliases of registered models that load: {sum(not problem for *_, problem in found)}.")
    return not any(problem for *_, problem in found)
