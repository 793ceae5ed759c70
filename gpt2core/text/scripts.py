"""Which writing a text uses, by blocks of Unicode."""

from __future__ import annotations

from collections import Counter

import numpy as np

# First character of each block, in order; everything up to the next one belongs to it.
BLOCKS = (
    (0x0000, "ASCII"),
    (0x0080, "Latin"),
    (0x0380, "Greek"),
    (0x0400, "Cyrillic"),
    (0x0580, "Hebrew and Armenian"),
    (0x0600, "Arabic"),
    (0x0900, "Indic"),
    (0x0E00, "South-East Asian"),
    (0x1080, "other"),
    (0x1E00, "Latin"),
    (0x1F00, "Greek"),
    (0x2000, "symbols"),
    (0x2E80, "Han"),
    (0x3000, "Kana and CJK marks"),
    (0x3180, "Han"),
    (0xA000, "other"),
    (0xAC00, "Hangul"),
    (0xD800, "other"),
    (0xF900, "Han"),
    (0xFB00, "Arabic"),
    (0xFF00, "Kana and CJK marks"),
    (0x10000, "other"),
    (0x1F000, "emoji"),
    (0x20000, "Han"),
    (0x32000, "other"),
)
NAMES = sorted({name for _, name in BLOCKS})
GRAIN = 7
"""All blocks begin at a multiple of 128."""
_starts = np.array([start >> GRAIN for start, _ in BLOCKS])
_block = np.searchsorted(_starts, np.arange(0x110000 >> GRAIN), side="right") - 1
NAME_OF = np.array([NAMES.index(name) for _, name in BLOCKS])[_block]


def count_scripts(text: str) -> Counter[str]:
    """Characters of each block in a text without half surrogate pairs."""
    if text.isascii():
        return Counter({"ASCII": len(text)})
    characters = np.frombuffer(text.encode("utf-32-le"), "<u4")
    counts = np.bincount(NAME_OF[characters >> GRAIN], minlength=len(NAMES)).tolist()
    return Counter({name: count for name, count in zip(NAMES, counts, strict=True) if count})
