"""What every layer would say, in the terminal."""

from __future__ import annotations

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from gpt2core.lens.maps import ReadingsByStep
from gpt2core.lens.reading import LensReading

COLUMNS = 5


def print_reading(reading: LensReading) -> None:
    """Print each layer's likeliest tokens after the prompt, and the rank it gives the token that was chosen."""
    console = Console(highlight=False)
    console.print(Text(reading.prompt, style="bold") + Text(reading.continuation, style="cyan"))
    heading = escape(f"rank of {reading.columns[0]}")
    table = Table("", *(str(rank) for rank in range(1, COLUMNS + 1)), heading, box=None, padding=(0, 2, 0, 0))
    for name, row, ranks in zip(reading.layer_names, reading.predictions[0], reading.rankings, strict=True):
        cells = [Text(f"{guess.text} ") + Text(f"{guess.probability:.0%}", style="dim") for guess in row[:COLUMNS]]
        table.add_row(name, *cells, f"{ranks[0]:,}")
    console.print(table)


def print_across(history: ReadingsByStep) -> None:
    """Print what each layer would say after the prompt at each step."""
    last = list(history.values())[-1]
    table = Table("", *(f"step {step:,}" for step in history), box=None, padding=(0, 2, 0, 0))
    for layer, name in enumerate(last.layer_names):
        guesses = [reading.best(layer, 0) for reading in history.values()]
        table.add_row(name, *(Text(f"{guess.text} ") + Text(f"{guess.probability:.0%}", style="dim") for guess in guesses))
    console = Console(highlight=False)
    console.print(Text(last.prompt, style="bold"))
    console.print(table)
