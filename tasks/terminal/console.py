"""What a person sees while the pipeline works: a line a stage, a bar while training; Prefect's log gets the same words."""

from __future__ import annotations

from prefect.context import FlowRunContext, TaskRunContext
from prefect.logging import get_run_logger
from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

console = Console(highlight=False)


def say(subject: str, text: str, mark: str = "[green]✓[/]") -> None:
    """Print one line of news and write it to Prefect's log of the running task or flow."""
    console.print(f" {mark} [bold]{subject:<12}[/] {text}", soft_wrap=True)
    if TaskRunContext.get() or FlowRunContext.get():
        get_run_logger().info("%s: %s", subject, text)


def begin(subject: str, text: str) -> None:
    """Say what a long stage is about to do."""
    say(subject, text, mark="[dim]…[/]")


def warn(subject: str, text: str) -> None:
    """Say that something is wrong which did not stop the run."""
    say(subject, text, mark="[yellow]![/]")


def training_bar() -> Progress:
    """A bar with loss, learning rate, tokens per second and time left."""
    figures = TextColumn("loss {task.fields[loss]:.3f}  lr {task.fields[rate]:.1e}  {task.fields[speed]:,.0f} tokens/s ")
    return _bar("training", MofNCompleteColumn(), figures)


def encoding_bar() -> Progress:
    """A bar with bytes done, bytes per second and time left."""
    return _bar("encoding", DownloadColumn(), TransferSpeedColumn())


def _bar(stage: str, *figures: ProgressColumn) -> Progress:
    """Silent where the output is no terminal; gone when it is done."""
    columns = (TextColumn(f"   [bold]{stage:<12}[/]"), BarColumn(), *figures, TimeRemainingColumn())
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
