"""The table of deployments."""

from __future__ import annotations

from datetime import datetime

from rich.console import Console
from rich.table import Table

from tasks.scheduling.deployments import Deployment, list_deployments


def print_deployments(console: Console) -> None:
    """Print every deployment: schedule, next start, how the last night ended, whether a worker looks for it."""
    found = list_deployments()
    if not found:
        console.print('No deployments yet. Make one: gpt2flow deploy CONFIG --cron "0 3 * * *"')
        return
    table = Table("deployment", "schedule", "next start", "last night", "worker", box=None, padding=(0, 2, 0, 0))
    for each in found:
        next_start = "paused" if each.paused else _time(each.next_start)
        table.add_row(each.name, each.schedule, next_start, _last(each), "yes" if each.served else "no: gpt2flow up")
    console.print(table)


def _last(deployment: Deployment) -> str:
    last = deployment.last
    return f"{last.state_name} {_time(last.end_time or last.start_time)}" if last else "none yet"


def _time(moment: datetime | None) -> str:
    return f"{moment.astimezone():%Y-%m-%d %H:%M}" if moment else ""
