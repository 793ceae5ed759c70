"""The status of runs as a person reads it in a terminal, once or again and again."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from datetime import datetime

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from flows.pages.alerts import alert_table
from flows.pages.runs import COLOURS
from gpt2core.machine.quantities import bytes_text, duration
from tasks.monitoring.status import NextNight, RunStatus, Status, next_nights, status_of
from tasks.runs.run_folder import RunFolder
from tasks.workspace.folders import Workspace

LOOK_INTERVAL = 2.0  # seconds
NIGHTS_INTERVAL = 30.0
BLOCKS = "▁▂▃▄▅▆▇█"
MOST_SAMPLES = 2
LONGEST_SAMPLE = 160  # characters
MOST_CHECKPOINTS = 8


def print_status(console: Console, workspace: Workspace, run: RunFolder | None) -> None:
    """Print it once."""
    console.print(render(status_of(workspace, run, next_nights(workspace))))


def show_live(console: Console, workspace: Workspace, run: RunFolder | None) -> None:
    """Show it anew every two seconds, until Ctrl-C or until the run that was asked for has ended."""
    nights, asked = next_nights(workspace), time.monotonic()
    with Live(console=console, auto_refresh=False) as live:
        while True:
            status = status_of(workspace, run, nights)
            live.update(render(status), refresh=True)
            if run and status.runs[0].state != "running":
                return
            time.sleep(LOOK_INTERVAL)
            if time.monotonic() - asked > NIGHTS_INTERVAL:
                nights, asked = next_nights(workspace), time.monotonic()


def render(status: Status) -> RenderableType:
    """A panel a run, then what starts next, then what was told."""
    parts: list[RenderableType] = [_run(run) for run in status.runs]
    if not parts:
        parts.append(Text("No runs yet. Start one: gpt2flow run configs/demo.yaml"))
    parts.append(_nights(status.nights))
    if status.servers:
        parts.append(Text("  ".join(f"{name} {address}" for name, address in status.servers.items()), style="dim"))
    if status.alerts:
        parts.append(alert_table(status.alerts))
    return Group(*parts)


def sparkline(values: Sequence[float]) -> str:
    """A curve of eight heights, a character a value."""
    if not values:
        return ""
    low, high = min(values), max(values)
    scale = (len(BLOCKS) - 1) / (high - low) if high > low else 0.0
    return "".join(BLOCKS[round((value - low) * scale)] for value in values)


def _run(run: RunStatus) -> Panel:
    table = Table(box=None, padding=(0, 2, 0, 0), show_header=False, expand=True)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(ratio=1)
    for name, content in _rows(run):
        table.add_row(name, content)
    colour = COLOURS[run.state]
    return Panel(table, title=f"[bold]{run.run}[/] [{colour}]{run.state}[/]", title_align="left", padding=(0, 1))


def _rows(run: RunStatus) -> list[tuple[str, RenderableType]]:
    rows: list[tuple[str, RenderableType]] = [("step", _progress(run))]
    if run.losses and run.loss is not None:
        rows.append(("loss", f"[cyan]{sparkline(run.losses)}[/] {run.loss:.3f}"))
    if run.validation:
        step, loss = run.validation[-1]
        curve = sparkline([value for _, value in run.validation])
        rows.append(("validation", f"[green]{curve}[/] {loss:.3f} at step {step:,}; best at step {run.best_step or 0:,}"))
    rows.append(("speed", _speed(run)))
    rows.append(("checkpoints", _checkpoints(run)))
    rows += [(f"step {sample.step:,}", _sample(sample.prompt, sample.completion)) for sample in run.samples[:MOST_SAMPLES]]
    return rows + ([("failed", Text(run.error, style="red"))] if run.error else [])


def _progress(run: RunStatus) -> RenderableType:
    share = f" ({run.step / run.steps:.0%})" if run.steps else ""
    left = f", {duration(run.seconds_left)} left" if run.seconds_left is not None else ""
    line = Table.grid(padding=(0, 2, 0, 0))
    line.add_row(
        ProgressBar(total=max(1, run.steps), completed=run.step, width=30), f"{run.step:,} of {run.steps:,}{share}{left}"
    )
    return line


def _speed(run: RunStatus) -> str:
    known = {
        "{:,.0f} tokens/s": run.tokens_per_second,
        "learning rate {:.1e}": run.learning_rate,
        "memory {}": bytes_text(run.memory) if run.memory else None,
        "process {}": run.process,
    }
    return ", ".join(text.format(value) for text, value in known.items() if value is not None)


def _checkpoints(run: RunStatus) -> str:
    if not run.checkpoints:
        return "none yet"
    shown = ", ".join(f"{step:,}" for step in run.checkpoints[-MOST_CHECKPOINTS:])
    more = f"{len(run.checkpoints) - MOST_CHECKPOINTS} more, " if len(run.checkpoints) > MOST_CHECKPOINTS else ""
    age = f"; the newest is {duration(run.newest_checkpoint_age)} old" if run.newest_checkpoint_age is not None else ""
    return f"{more}{shown}{age}"


def _sample(prompt: str, completion: str) -> Text:
    text = re.sub(r"\s+", " ", completion)[:LONGEST_SAMPLE]
    return Text(re.sub(r"\s+", " ", prompt), style="dim") + Text(text)


def _nights(nights: list[NextNight] | None) -> RenderableType:
    if nights is None:
        return Text("Nothing starts by itself: gpt2flow up is not running.", style="dim")
    if not nights:
        return Text("Nothing starts by itself: gpt2flow deploy makes a deployment.", style="dim")
    table = Table("night", "schedule", "next start", "last night", box=None, padding=(0, 2, 0, 0))
    for night in nights:
        start = "paused" if night.paused else _time(night.next_start)
        worker = "" if night.served else " (no worker looks: gpt2flow up)"
        table.add_row(night.name, escape(night.schedule), start + worker, night.last_state or "none yet")
    return table


def _time(moment: str | None) -> str:
    return f"{datetime.fromisoformat(moment).astimezone():%Y-%m-%d %H:%M}" if moment else "by hand"
