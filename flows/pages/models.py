"""What the command line prints of registered models and versions."""

from __future__ import annotations

from datetime import UTC, datetime

from rich.console import Console
from rich.markup import escape
from rich.padding import Padding
from rich.table import Table

from gpt2core.machine.quantities import bytes_text
from tasks.promotion.versions import Difference, ModelRow, VersionRow

SHOWN = {"bits_per_byte": "bits per byte", "val_loss": "validation loss"}


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
    """Print versions, newest first: aliases and age, and below what they are."""
    for row in rows:
        version, figures = row.version, row.figures
        when = datetime.fromtimestamp(version.created / 1000, UTC).strftime("%Y-%m-%d %H:%M UTC")
        aliases = f"  [bold]{', '.join(version.aliases)}[/]" if version.aliases else ""
        console.print(f"{version.uri}  {when}{aliases}", soft_wrap=True)
        known = [f"{title} {figures[name]:.4f}" for name, title in SHOWN.items() if name in figures]
        size = "files are gone" if row.bytes is None else bytes_text(row.bytes)
        run = [f"run {version.tags['run']}"] if "run" in version.tags else []
        chain = [f"from {' ← '.join(row.lineage)}"] if row.lineage else []
        console.print(Padding(escape(", ".join([*known, size, *run, *chain])), (0, 0, 0, 3)))


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
