"""A lens reading as one self-contained HTML page and as PNG pictures."""

from __future__ import annotations

import math
from collections.abc import Collection
from pathlib import Path

import matplotlib as mpl
import numpy as np
from jinja2 import Environment
from matplotlib import font_manager
from matplotlib.figure import Figure

from gpt2core.lens_reading import LensReading

PALEST = 5000
"""Rank at which the colour ends, as in Ecco."""
PAGE = Path(__file__).with_name("lens_page.html")


def strength(rank: int) -> float:
    """Colour of a rank: 1 for rank 1, falling with its logarithm to 0 for rank 5,000 and beyond."""
    return max(0.0, 1.0 - math.log(rank) / math.log(PALEST))


def render_page(reading: LensReading, title: str) -> str:
    """One HTML page that needs no network and follows the reader's light or dark theme."""
    template = Environment(autoescape=True).from_string(PAGE.read_text(encoding="utf-8"))
    return template.render(reading=reading, title=title, strength=strength)


def draw_rankings(reading: LensReading, path: Path) -> None:
    """PNG heat map of the generated tokens' ranks: a row a layer, a column a token, the rank in each cell."""
    _draw(reading, reading.generated, reading.rankings, "".join(reading.prompt), path)


def draw_watched(reading: LensReading, path: Path) -> None:
    """PNG heat map of the watched tokens' ranks after the prompt."""
    _draw(reading, reading.watched, reading.watched_rankings, "".join(reading.prompt) + "____", path)


def _draw(reading: LensReading, columns: list[str], ranks: list[list[int]], title: str, path: Path) -> None:
    rows, count = len(ranks), len(columns)
    figure = Figure(figsize=(2.2 + 0.62 * count, 1.6 + 0.34 * rows), layout="constrained")
    axes = figure.subplots()
    shares = np.array([[strength(rank) for rank in row] for row in ranks])
    axes.imshow(shares, cmap="Blues", vmin=0.0, vmax=1.2, aspect="auto")
    axes.set_xticks(range(count), [drawable(text) for text in columns], rotation=90, family="monospace", parse_math=False)
    axes.set_yticks(range(rows), reading.layer_names)
    axes.set_title(drawable(title[-80:]), fontsize=10, parse_math=False)
    for row, values in enumerate(ranks):
        for column, rank in enumerate(values):
            colour = "white" if shares[row, column] > 0.7 else "black"
            axes.text(column, row, f"{rank:,}", ha="center", va="center", fontsize=7, color=colour)
    axes.set_xlabel("rank of the token at each layer; 1 is best")
    figure.savefig(path, dpi=150)


def drawable(text: str) -> str:
    """The text with every character that the picture's font lacks as its code point, such as U+4E2D."""
    known = _known_characters()
    return "".join(c if ord(c) in known else f"U+{ord(c):04X}" for c in text)


def _known_characters() -> Collection[int]:
    family = font_manager.FontProperties(family=mpl.rcParams["font.monospace"])
    return font_manager.get_font(font_manager.findfont(family)).get_charmap().keys()
