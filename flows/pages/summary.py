"""The page a person reads when a run is finished."""

from __future__ import annotations

import os
import re
import shutil
import sys
import textwrap
from pathlib import Path

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from gpt2core.machine.quantities import bytes_text
from tasks.finetuning.result import RunResult
from tasks.terminal.console import console


def print_summary(result: RunResult) -> None:
    """Print figures before and after, one prompt completed before and after, the version, and what to type next."""
    parts: list[RenderableType] = [_figures(result), Text(), _completions(result), Text(), _next_commands(result)]
    console.print()
    console.print(Panel(Group(*parts), title=f"[bold]{result.run}[/]", padding=(1, 2), width=min(console.width, 110)))


def _figures(result: RunResult) -> Table:
    table = Table(box=None, padding=(0, 3, 0, 0), show_header=False)
    table.add_column(style="bold")
    size = f"{result.documents:,} documents, {bytes_text(result.bytes)}"
    table.add_row("text", f"{size}, {result.tokens:,} tokens of a vocabulary of {result.n_vocab:,}")
    steps = f"{result.steps:,} steps{' (stopped early)' if result.stopped_early else ''}"
    table.add_row("model", f"{result.parameters:,} parameters, {steps}, best at step {result.best_step:,}")
    before, best = result.before, result.best
    table.add_row("validation", f"loss {before.val_loss:.3f} → [green]{best.val_loss:.3f}[/]")
    table.add_row("", f"bits per byte {before.bits_per_byte:.3f} → [green]{best.bits_per_byte:.3f}[/]")
    table.add_row("", f"perplexity {before.perplexity:,.1f} → [green]{best.perplexity:,.1f}[/]")
    version = f"{result.model} version {result.version} ('{result.alias}')" if result.version else "not registered"
    table.add_row("registry", version)
    if result.promotion:
        table.add_row("promotion", escape(result.promotion))
    return table


def _completions(result: RunResult) -> Group:
    return Group(
        Text("untrained", style="bold"),
        _completion(result.prompt, result.completion_before),
        Text(),
        Text("trained", style="bold"),
        _completion(result.prompt, result.completion_after),
    )


def _completion(prompt: str, completion: str) -> Text:
    without_blank_lines = re.sub(r"\n\s*\n", "\n", completion)
    return Text(prompt.lstrip("\n"), style="dim") + Text(without_blank_lines[:400])


def _next_commands(result: RunResult) -> Table:
    table = Table(box=None, padding=(0, 3, 0, 0), show_header=False)
    command = _command()
    model = f"models:/{result.model}/{result.version}" if result.version else result.run
    table.add_row("try it", f'[cyan]{command} sample --model {model} "{_one_line(result.prompt)}"[/]')
    table.add_row("report", Path(result.folder, "report.html").as_uri())
    table.add_row("dashboards", f"[cyan]{command} dashboard[/]")
    table.add_row("all runs", f"[cyan]{command} runs[/]")
    return table


def _one_line(prompt: str) -> str:
    return textwrap.shorten(prompt, 60, placeholder="") or "The"


def _command() -> str:
    """How this user calls gpt2flow: by the virtual environment's path unless that is on the PATH."""
    called = Path(sys.argv[0]).absolute()
    return "gpt2flow" if shutil.which("gpt2flow") == str(called) else os.path.relpath(called)
