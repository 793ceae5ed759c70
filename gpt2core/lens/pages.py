"""Lens readings as self-contained HTML pages, and the parts that every page of the project is made of."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from gpt2core.lens import maps
from gpt2core.lens.maps import ReadingsByStep
from gpt2core.lens.reading import LensReading

FOLDER = Path(__file__).parent


@cache
def page_environment(*folders: Path) -> Environment:
    """Templates of these folders, each read once, which may import `page_parts.html`; everything that is shown is escaped."""
    loader = FileSystemLoader([*folders, FOLDER])
    return Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True)


def render_reading(reading: LensReading, title: str) -> str:
    """One reading with all that can be asked of it: predictions by token, rankings, watched tokens, saliency."""
    return (
        page_environment()
        .get_template("reading.html")
        .render(
            title=title,
            reading=reading,
            predictions=[maps.predictions_map(reading, column) for column in range(len(reading.columns))],
            rankings=maps.rankings_map(reading),
            watched=maps.watched_map(reading),
            saliency=maps.saliency_map(reading),
        )
    )


def render_across(history: ReadingsByStep, title: str) -> str:
    """Readings of one prompt at successive steps, side by side."""
    return (
        page_environment()
        .get_template("across.html")
        .render(
            title=title,
            guesses=maps.guesses_across(history),
            watched=maps.watched_across(history),
            rankings=maps.rankings_across(history),
        )
    )
