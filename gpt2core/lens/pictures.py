"""Heat maps as PNG files: the label in every cell, wide ones in bands of columns below one another. Sizes are in inches."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

from gpt2core.lens.maps import HeatMap

COLOURS = LinearSegmentedColormap.from_list("lens", ["#f7fafd", "#4c86bd", "#0f3d6e"])
INK = "#1b1f24"
STRONG = 0.55  # strength from which on labels are white
SMALL, USUAL, LARGE = 7, 9, 12  # points
LETTER = 0.0605  # a letter of SMALL
ROW = 0.24
GAP = 0.3
TITLE = 0.3
LONGEST = 16  # letters of a token
BAND = 10.0  # of cells, beyond which a map goes on below
SHEET = 12.0  # that maps side by side may take


@dataclass(frozen=True)
class Band:
    """Neighbouring columns of a map."""

    map: HeatMap
    first: int
    last: int
    cell: float
    head: float
    """Height of title and column names."""
    side: float
    """Width of the row names."""

    @property
    def width(self) -> float:
        """All of it, the title included."""
        return max(self.side + self.cell * (self.last - self.first), LETTER * USUAL / SMALL * width(self.title))

    @property
    def height(self) -> float:
        """All of it."""
        return self.head + ROW * len(self.map.rows)

    @property
    def title(self) -> str:
        """The map's, over its first band only."""
        return drawable(self.map.title) if self.first == 0 else ""

    def draw(self, axes: Axes, left: float, top: float) -> None:
        """Draw it with its upper left corner there."""
        axes.text(left, top, self.title, va="top", size=USUAL, color=INK, parse_math=False)
        x, y = left + self.side, top + self.head
        cells = [row[self.first : self.last] for row in self.map.cells]
        strengths = np.array([[cell.strength for cell in row] for row in cells])
        corners = (x, x + self.cell * len(cells[0]), y + ROW * len(cells), y)
        axes.imshow(strengths, cmap=COLOURS, vmin=0.0, vmax=1.0, extent=corners, aspect="auto", interpolation="nearest")
        self._name(axes, x, y)
        for row, line in enumerate(cells):
            for column, cell in enumerate(line):
                colour = "white" if cell.strength > STRONG else INK
                _write(axes, x + self.cell * (column + 0.5), y + ROW * (row + 0.5), cell.label, color=colour)

    def _name(self, axes: Axes, x: float, y: float) -> None:
        names = self.map.columns[self.first : self.last]
        upright = LETTER * max(width(_short(name)) for name in names) > self.cell
        for column, name in enumerate(names):
            place = x + self.cell * (column + 0.5)
            _write(axes, place, y - 0.05, name, va="bottom", rotation=90 if upright else 0)
        for row, name in enumerate(self.map.rows):
            _write(axes, x - 0.06, y + ROW * (row + 0.5), name, ha="right")


def draw_maps(maps: Sequence[HeatMap], path: Path, title: str = "") -> None:
    """Write one PNG with the maps side by side, in as many rows as they need."""
    rows = list(_arranged([band for map_ in maps for band in _bands(map_)]))
    heading = 0.4 if title else 0.0
    across = max(sum(band.width + GAP for band in row) for row in rows) + GAP
    down = sum(max(band.height for band in row) + GAP for row in rows) + heading + GAP
    with mpl.rc_context({"font.family": list(families())}):
        figure = Figure(figsize=(across, down))
        axes = figure.add_axes((0.0, 0.0, 1.0, 1.0), xlim=(0.0, across), ylim=(down, 0.0), autoscale_on=False)
        axes.set_axis_off()
        axes.text(GAP, GAP, drawable(title), va="top", size=LARGE, color=INK, parse_math=False)
        _draw_rows(axes, rows, GAP + heading)
        figure.savefig(path, dpi=130, pil_kwargs={"compress_level": 1})


def _draw_rows(axes: Axes, rows: list[list[Band]], top: float) -> None:
    for row in rows:
        left = GAP
        for band in row:
            band.draw(axes, left, top)
            left += band.width + GAP
        top += max(band.height for band in row) + GAP


def _write(axes: Axes, x: float, y: float, text: str, **style: object) -> None:
    usual = {"ha": "center", "va": "center", "color": INK}
    axes.text(x, y, _short(text), size=SMALL, parse_math=False, **{**usual, **style})  # type: ignore[arg-type]


def _bands(map_: HeatMap) -> Iterator[Band]:
    label = max(width(_short(cell.label)) for row in map_.cells for cell in row)
    cell = max(0.3, LETTER * (label + 1.5))
    at_once = max(1, int(BAND / cell))
    names = LETTER * max(width(_short(name)) for name in map_.columns)
    side = LETTER * max(width(_short(name)) for name in map_.rows) + 0.1
    for first in range(0, len(map_.columns), at_once):
        head = (TITLE if first == 0 else 0.0) + (names + 0.1 if names > cell else 0.2)
        yield Band(map_, first, min(first + at_once, len(map_.columns)), cell, head, side)


def _arranged(bands: list[Band]) -> Iterator[list[Band]]:
    """Bands in rows no wider than a sheet; a band that goes on with a map begins a row, and so does what follows it."""
    row: list[Band] = []
    for band in bands:
        begins = band.first > 0 or (row and row[-1].first > 0)
        if row and (begins or sum(b.width + GAP for b in row) + band.width > SHEET):
            yield row
            row = []
        row.append(band)
    yield row


def _short(text: str) -> str:
    shown = drawable(text)
    return shown if len(shown) <= LONGEST else shown[: LONGEST - 1] + "…"


OWN = "DejaVu Sans Mono"
"""Comes with matplotlib."""


OTHERS = (
    "Noto Sans Mono CJK SC",
    "Noto Sans CJK SC",
    "Noto Sans CJK JP",
    "Noto Sans SC",
    "Source Han Sans SC",
    "WenQuanYi Zen Hei",
    "WenQuanYi Micro Hei",
    "Droid Sans Fallback",
    "PingFang SC",
    "Hiragino Sans GB",
    "Arial Unicode MS",
    "Microsoft YaHei",
    "SimHei",
    "Noto Emoji",
    "Symbola",
)
"""Fonts with Chinese characters or outlined emoji, on Linux, macOS and Windows; coloured emoji cannot be drawn."""


@cache
def families() -> tuple[str, ...]:
    """The fonts that are here, in the order in which a character is looked for."""
    here = {font.name for font in font_manager.fontManager.ttflist}
    return (OWN, *(name for name in OTHERS if name in here))


def drawable(text: str) -> str:
    """The text with every character that no font here has as its code point, such as U+4E2D."""
    known = _known_characters(families())
    return "".join(c if ord(c) in known else f"U+{ord(c):04X}" for c in text)


def width(text: str) -> int:
    """Width in letters: Chinese characters and the like are as wide as two."""
    return sum(2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)


@cache
def _known_characters(names: tuple[str, ...]) -> frozenset[int]:
    paths = (font_manager.findfont(font_manager.FontProperties(family=name)) for name in names)
    return frozenset(character for path in paths for character in font_manager.get_font(path).get_charmap())
