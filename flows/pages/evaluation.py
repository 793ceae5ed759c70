"""The figures of an evaluation in the terminal."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from gpt2core.evaluation.held_out import EvaluationReport, HeldOutPart
from gpt2core.evaluation.zero_shot import TaskResult
from tasks.evaluation.compare import Comparison

SHOWN = 12
"""Rows of a breakdown; the file has all."""


def print_comparison(comparison: Comparison, console: Console) -> None:
    """Print the figures of one model, or of two beside each other, and the breakdown by source and length."""
    reports = [comparison.report, comparison.other] if comparison.other else [comparison.report]
    names = [comparison.model, comparison.against or ""][: len(reports)]
    table = Table("", *names, box=None, padding=(0, 3, 0, 0))
    for name, *cells in zip(_NAMES, *map(_cells, reports), strict=True):
        table.add_row(name, *cells)
    console.print(table)
    if gain := comparison.gain:
        verdict = "better" if gain.low > 0 else "worse" if gain.high < 0 else "not clearly different"
        bounds = f"95% interval {gain.low:+.4f} to {gain.high:+.4f}, by document"
        console.print(f"\n{gain.gain:+.4f} bits per byte gained over {names[1]}: {verdict} ({bounds})")
    for title, parts in (("source", comparison.report.by_source), ("tokens in document", comparison.report.by_length)):
        if len(parts) > 1:
            console.print()
            console.print(_breakdown(title, parts))


def print_tasks(results: list[TaskResult], console: Console) -> None:
    """Print the figures of zero-shot tasks."""
    table = Table("task", "items", "figure", "", box=None, padding=(0, 3, 0, 0))
    for result in results:
        heads = [(result.task, f"{result.items:,}"), *[("", "")] * (len(result.figures) - 1)]
        for head, (name, value) in zip(heads, result.figures.items(), strict=True):
            table.add_row(*head, name, f"{value:,.4f}")
    console.print(table)


_NAMES = ("loss", "perplexity", "bits per byte", "accuracy", "calibration error", "tokens scored")


def _cells(report: EvaluationReport) -> list[str]:
    found = report.figures
    return [
        f"{found.val_loss:.4f}",
        f"{found.perplexity:,.2f}",
        f"{found.bits_per_byte:.4f}",
        f"{found.accuracy:.2%}",
        f"{found.calibration_error:.4f}",
        f"{found.val_tokens:,}",
    ]


def _breakdown(title: str, parts: list[HeldOutPart]) -> Table:
    table = Table(title, "documents", "tokens", "loss", "bits per byte", "accuracy", box=None, padding=(0, 3, 0, 0))
    for part in parts[:SHOWN]:
        figures = (f"{part.val_loss:.4f}", f"{part.bits_per_byte:.4f}", f"{part.accuracy:.2%}")
        table.add_row(part.name, f"{part.documents:,}", f"{part.val_tokens:,}", *figures)
    if len(parts) > SHOWN:
        table.add_row(f"{len(parts) - SHOWN:,} more in the file")
    return table
