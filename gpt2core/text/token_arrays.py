"""Token ids that nshepperd/gpt-2's encode.py or gpt-2-simple's encode_dataset wrote: .npz with an int array a chunk."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from typing import Any, BinaryIO

import numpy as np
from numpy.lib import format as npy

from configs.errors import UserError
from gpt2core.text.pieces import Piece

GPT2_END_OF_TEXT = 50256
IDS = 1 << 18
"""Ids read at once."""


def read_npz(stream: BinaryIO, shown: str, first: int) -> Iterator[Piece]:
    """Documents with the ids they have in the file: those between end-of-text ids, and a document at least for each array."""
    index = first
    with zipfile.ZipFile(stream) as archive:
        for name in archive.namelist():
            with archive.open(name) as member:
                for ids, last in _documents(member, f"{shown}/{name}"):
                    yield Piece(index, "", last, ids)
                    index += last


def _documents(member: Any, shown: str) -> Iterator[tuple[np.ndarray[Any, Any], bool]]:
    for ids in _parts(member, shown):
        ends = np.flatnonzero(ids == GPT2_END_OF_TEXT)
        start = 0
        for end in ends.tolist():
            yield ids[start:end], True
            start = end + 1
        yield ids[start:], False
    yield np.empty(0, dtype=np.int64), True


def _parts(member: Any, shown: str) -> Iterator[np.ndarray[Any, Any]]:
    """The array in parts: a whole corpus may be one array."""
    try:
        version = npy.read_magic(member)
        read_header = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
        shape, _, dtype = read_header(member)
    except ValueError as error:
        raise UserError(f"{shown} is no NumPy array ({error}): encode the text again.") from None
    if dtype.kind not in "iu" or len(shape) != 1:
        raise UserError(f"{shown} holds {dtype} of shape {shape}, but ids are whole numbers in a row: encode the text again.")
    left = shape[0]
    while left:
        count = min(left, IDS)
        raw = member.read(count * dtype.itemsize)
        if len(raw) < count * dtype.itemsize:
            raise UserError(f"{shown} ends {left:,} ids too early: copy the file again.")
        yield np.frombuffer(raw, dtype).astype(np.int64)
        left -= count
