"""The table of alerts."""

from __future__ import annotations

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from tasks.alerts.alert_log import AlertLog, Entry
from tasks.workspace.folders import Workspace


def print_alerts(console: Console) -> None:
    """Print what was told, the newest last, and how often each came."""
    entries = AlertLog(Workspace.current()).entries()
    if not entries:
        console.print("Nothing was told yet.")
        return
    console.print(alert_table(entries))


def alert_table(entries: list[Entry]) -> Table:
    """A row an alert."""
    table = Table("when", "run", "what", "times", "", box=None, padding=(0, 2, 0, 0))
    for entry in entries:
        when = entry.time[:16].replace("T", " ")
        table.add_row(when, entry.subject, f"[yellow]{entry.kind}[/]", f"{entry.times:,}", escape(entry.text))
    return table
