"""The table of a run's checkpoints."""

from __future__ import annotations

from datetime import datetime

from rich.console import Console
from rich.table import Table

from gpt2core.machine.quantities import bytes_text
from tasks.runs.checkpoints import CheckpointRow, list_checkpoints
from tasks.runs.run_folder import RunFolder


def print_checkpoints(console: Console, run: RunFolder, verify: bool) -> bool:
    """Print step, time, size, validation loss, why it is kept, and whether it is damaged; False if one is."""
    rows = list_checkpoints(run, verify)
    if not rows:
        console.print(f"Run {run.id} has no checkpoint yet.")
        return True
    table = Table("step", "saved", "size", "val loss", "kept because", "state", box=None, padding=(0, 2, 0, 0))
    for row in rows:
        table.add_row(*_cells(row))
    console.print(table)
    return not any(row.damage for row in rows)


def _cells(row: CheckpointRow) -> list[str]:
    state = "" if row.damage is None else f"[red]{row.damage}[/]" if row.damage else "[green]verified[/]"
    return [
        f"{row.step:,}",
        f"{datetime.fromtimestamp(row.saved):%Y-%m-%d %H:%M}" if row.saved else "",
        bytes_text(row.n_bytes),
        "" if row.val_loss is None else f"{row.val_loss:.3f}",
        ", ".join(row.kept_because) or "goes with the next checkpoint",
        state,
    ]
