"""What every layer would say, in the terminal."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table
from rich.text import Text

from gpt2core.lens_reading import LensReading

COLUMNS = 5


def print_reading(reading: LensReading) -> None:
    """Print each layer's likeliest tokens after the prompt, and the rank it gives the token that was chosen."""
    console = Console(highlight=False)
    console.print(Text("".join(reading.prompt), style="bold") + Text("".join(reading.generated), style="cyan"))
    chosen = reading.generated[0]
    table = Table("", *(str(rank) for rank in range(1, COLUMNS + 1)), f"rank of {chosen!r}", box=None, padding=(0, 2, 0, 0))
    for name, row, ranks in zip(reading.layer_names, reading.predictions, reading.rankings, strict=True):
        cells = [Text(f"{guess.text} ") + Text(f"{guess.probability:.0%}", style="dim") for guess in row[:COLUMNS]]
        table.add_row(name, *cells, f"{ranks[0]:,}")
    console.print(table)
