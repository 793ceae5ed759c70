"""Fonts for PNG pictures: matplotlib's own, behind it whatever this machine has for other scripts, and no warnings."""

from __future__ import annotations

import unicodedata
from functools import cache

from matplotlib import font_manager

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
