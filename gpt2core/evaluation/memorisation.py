"""Which passages of a sample stand word for word in the training text, and where.

The index holds a hash of every fourth run of 12 tokens of the training stream, sorted; it is made once, in bounded memory, and
read by memory map. A hash only says where to look: what is reported was compared token by token. Any passage of 15 tokens or
more contains an indexed run, wherever it begins, so all of them are found.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gpt2core.machine.durable import publish_folder, remove_folder
from gpt2core.store.shuffle import mix
from gpt2core.store.token_store import TokenStream

GRAM = 12
SPACING = 4
SHORTEST = GRAM + SPACING - 1
"""Tokens from which a verbatim passage is found wherever it begins."""
WINDOW = 50
"""Tokens of the windows whose share is reported (Carlini et al., Quantifying Memorization, 2023)."""
PLACES = 1000
"""Places looked at for a run of tokens that stands in the training text more often."""
CHUNK = 1 << 20
PART = 1 << 22
"""Entries sorted at once while the index is made: 64 MiB."""
BASE = np.uint64(0x9E3779B97F4A7C15)
ENTRY = np.dtype([("hash", "<u8"), ("position", "<u8")])

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Passage:
    """`length` tokens from `start` of the sample on, which are the same as those from `position` of the training stream on."""

    start: int
    position: int
    length: int


@dataclass(frozen=True)
class Copies:
    """What of one sample stands in the training text."""

    longest: Passage | None
    """The longest passage, the first of equals; None where none has 15 tokens."""
    windows: int
    """Windows of 50 tokens in the sample."""
    found: int
    """How many of them stand in the training text."""


class CopyIndex:
    """An index made by `build_copy_index` and the stream that it was made of."""

    def __init__(self, folder: Path, stream: TokenStream) -> None:
        """Raises ValueError or OSError where the index is missing, damaged or of another stream."""
        self._stream = stream
        self._hashes: Array = np.load(folder / "hashes.npy", mmap_mode="r")
        self._positions: Array = np.load(folder / "positions.npy", mmap_mode="r")
        if not len(self._hashes) == len(self._positions) == _entries(stream):
            raise ValueError(f"{folder} is no index of a stream of {len(stream)} tokens")

    def find(self, sample: Sequence[int]) -> Copies:
        """The passages of a sample (ids without prompt and end of text)."""
        ids = np.asarray(sample, dtype=np.int64)
        found = np.zeros(max(0, len(ids) - WINDOW + 1), dtype=bool)
        longest: Passage | None = None
        for diagonal in self._diagonals(ids):
            for start, length in self._runs(ids, diagonal):
                if length < SHORTEST:
                    continue
                found[start : max(start, start + length - WINDOW + 1)] = True
                if longest is None or (length, -start) > (longest.length, -longest.start):
                    longest = Passage(start, start + diagonal, length)
        return Copies(longest, len(found), int(found.sum()))

    def _diagonals(self, ids: Array) -> list[int]:
        """By how much the sample must be shifted to lie where one of its runs may stand in the stream."""
        hashes = _hashes(ids, 1)
        first = np.searchsorted(self._hashes, hashes, "left")
        last = np.minimum(np.searchsorted(self._hashes, hashes, "right"), first + PLACES)
        shifts = {
            int(position) - place
            for place, (low, high) in enumerate(zip(first.tolist(), last.tolist(), strict=True))
            for position in self._positions[low:high]
        }
        return sorted(shifts)

    def _runs(self, ids: Array, diagonal: int) -> Iterator[tuple[int, int]]:
        """Start and length of each run of tokens that are the same in the shifted sample and in the stream."""
        low, high = max(0, -diagonal), min(len(ids), len(self._stream) - diagonal)
        there = np.empty(high - low, dtype=np.int64)
        self._stream.read(low + diagonal, high - low, there)
        edges = np.flatnonzero(np.diff(ids[low:high] == there, prepend=False, append=False)) + low
        for start, end in edges.reshape(-1, 2).tolist():
            yield start, end - start


def open_copy_index(folder: Path, stream: TokenStream) -> CopyIndex:
    """The index in `folder`, made now where there is none or a damaged one. Raises UserError where the disk is full."""
    try:
        return CopyIndex(folder, stream)
    except (OSError, ValueError):
        build_copy_index(folder, stream)
        return CopyIndex(folder, stream)


def build_copy_index(folder: Path, stream: TokenStream) -> None:
    """Write hashes.npy (sorted) and positions.npy; an older index of that name is replaced.

    Entries are dealt out to files by the first bits of their hash, and each file is sorted by itself.
    """
    remove_folder(folder)
    count = _entries(stream)
    bits = max(0, (count // PART).bit_length())
    with publish_folder(folder) as temporary:
        parts = [temporary / f"part-{number}" for number in range(1 << bits)]
        _deal_out(stream, parts, bits)
        hashes = np.lib.format.open_memmap(temporary / "hashes.npy", "w+", "<u8", (count,))
        positions = np.lib.format.open_memmap(
            temporary / "positions.npy", "w+", "<u4" if len(stream) < 1 << 32 else "<u8", (count,)
        )
        done = 0
        for part in parts:
            entries = np.fromfile(part, ENTRY)
            entries.sort(order=("hash", "position"))
            hashes[done : done + len(entries)], positions[done : done + len(entries)] = entries["hash"], entries["position"]
            done += len(entries)
            part.unlink()
        hashes.flush()
        positions.flush()


def _entries(stream: TokenStream) -> int:
    return max(0, len(stream) - GRAM) // SPACING + 1 if len(stream) >= GRAM else 0


def _deal_out(stream: TokenStream, parts: list[Path], bits: int) -> None:
    for part in parts:
        part.touch()
    for first in range(0, len(stream) - GRAM + 1, CHUNK):
        tokens = np.empty(min(CHUNK - 1 + GRAM, len(stream) - first), dtype=np.int64)
        stream.read(first, len(tokens), tokens)
        entries = np.empty((len(tokens) - GRAM) // SPACING + 1, ENTRY)
        entries["hash"] = _hashes(tokens, SPACING)
        entries["position"] = first + np.arange(len(entries)) * SPACING
        chosen = entries["hash"] >> np.uint64(64 - bits) if bits else np.zeros(len(entries), np.uint64)
        for number, part in enumerate(parts):
            with part.open("ab") as file:
                entries[chosen == number].tofile(file)


def _hashes(tokens: Array, spacing: int) -> Array:
    """Polynomial hashes of the runs of 12 tokens that begin every `spacing` tokens."""
    count = max(0, (len(tokens) - GRAM) // spacing + 1) if len(tokens) >= GRAM else 0
    hashes = np.zeros(count, dtype=np.uint64)
    with np.errstate(over="ignore"):
        for place in range(GRAM):
            hashes = (
                hashes * BASE + tokens[place : place + (count - 1) * spacing + 1 : spacing].astype(np.uint64) + np.uint64(1)
            )
    return mix(hashes)
