"""What the command line prints of registered models and versions."""

from __future__ import annotations

from datetime import UTC, datetime

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from gpt2core.machine.quantities import bytes_text
from tasks.promotion.versions import Difference, ModelRow, VersionRow


def print_models(console: Console, rows: list[ModelRow]) -> None:
    """Print all models with their aliases."""
    if not rows:
        console.print("No model is registered yet: gpt2flow run configs/demo.yaml makes one.")
        return
    table = Table("model", "versions", "aliases", box=None, padding=(0, 2, 0, 0))
    for row in rows:
        aliases = ", ".join(f"{alias} {version}" for alias, version in sorted(row.aliases.items()))
        table.add_row(row.name, str(row.versions), aliases)
    console.print(table)


def print_versions(console: Console, rows: list[VersionRow]) -> None:
    """Print versions, newest first."""
    columns = ("version", "aliases", "bits per byte", "val loss", "size", "run", "from", "registered")
    table = Table(*columns, box=None, padding=(0, 2, 0, 0))
    for row in rows:
        version, figures = row.version, row.figures
        shown = [f"{figures[name]:.4f}" if name in figures else "–" for name in ("bits_per_byte", "val_loss")]
        size = "files are gone" if row.bytes is None else bytes_text(row.bytes)
        when = datetime.fromtimestamp(version.created / 1000, UTC).strftime("%Y-%m-%d %H:%M")
        chain = " ← ".join(row.lineage) or "–"
        table.add_row(version.number, ", ".join(version.aliases), *shown, size, version.tags.get("run", "–"), chain, when)
    console.print(table)


def print_difference(console: Console, found: Difference) -> None:
    """Print what differs between two versions."""
    parts = {"settings": found.settings, "text": found.text, "figures": found.figures}
    for title, rows in parts.items():
        table = Table(title, found.first.uri, found.second.uri, box=None, padding=(0, 2, 0, 0))
        for row in rows:
            table.add_row(*map(escape, row))
        console.print(table if rows else f"{title}: the same, as far as is recorded")
        console.print()
    for prompt, one, two in found.samples:
        table = Table(found.first.uri, found.second.uri, title=escape(repr(prompt)), title_justify="left", expand=True)
        table.add_row(escape(one), escape(two))
        console.print(table)
