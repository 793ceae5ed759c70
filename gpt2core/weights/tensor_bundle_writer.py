"""Writes checkpoints that TensorFlow loads ("tensor bundles"), without TensorFlow: what `tensor_bundle` reads.

One data file with the values one after the other, and an index: a LevelDB table of a single block, uncompressed, each key in
full. TensorFlow reads any number and size of blocks.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpt2core.machine.durable import named_write_errors
from gpt2core.weights.tensor_bundle import BYTES, DTYPES, FOOTER_SIZE, TABLE_MAGIC, UNCOMPRESSED, VARINT, Entry, masked_crc

FIXED_32 = 5  # protocol-buffer wire type
NUMBERS = {np.dtype(kind): number for number, kind in DTYPES.items()}
Rows = Iterable[tuple[bytes, bytes]]


def write_tensor_bundle(prefix: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write PREFIX.index and PREFIX.data-00000-of-00001 with these variables.

    Raises UserError where the disk is full or the folder may not be written, KeyError for a type that the format has not.
    """
    entries, offset = {}, 0
    with named_write_errors(prefix), Path(f"{prefix}.data-00000-of-00001").open("wb") as file:
        for name in sorted(arrays, key=str.encode):
            array = arrays[name]
            values = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
            entries[name] = Entry(NUMBERS[array.dtype], array.shape, 0, offset, values.size, masked_crc(values), sliced=False)
            file.write(values.data)
            offset += values.size
        Path(f"{prefix}.index").write_bytes(_table([(b"", _header()), *((n.encode(), _entry(e)) for n, e in entries.items())]))


def _header() -> bytes:
    """BundleHeaderProto: num_shards 1, endianness 2 (little is 0 and not written), version 3 with producer 1."""
    return _number(1, 1) + _message(3, _number(1, 1))


def _entry(entry: Entry) -> bytes:
    """BundleEntryProto, its fields as in `Entry`; numbers that are 0 are not written."""
    shape = b"".join(_message(2, _number(1, length)) for length in entry.shape)
    place = _number(4, entry.offset) + _number(5, entry.size)
    return (
        _number(1, entry.dtype)
        + _message(2, shape)
        + place
        + bytes([6 << 3 | FIXED_32])
        + entry.masked_crc.to_bytes(4, "little")
    )


def _table(rows: Rows) -> bytes:
    """A LevelDB table: one block of rows, one of no meta data, one of handles, the footer."""
    rows = list(rows)
    table = bytearray()
    data = _append(table, _block(rows))
    meta = _append(table, _block([]))
    top = _append(table, _block([(rows[-1][0], data)]))
    return bytes(table) + (meta + top).ljust(FOOTER_SIZE - 8, b"\0") + TABLE_MAGIC.to_bytes(8, "little")


def _append(table: bytearray, block: bytes) -> bytes:
    """Add a block with its checksum; returns its handle, offset and size."""
    handle, stored = _varint(len(table)) + _varint(len(block)), block + bytes([UNCOMPRESSED])
    table += stored + masked_crc(stored).to_bytes(4, "little")
    return handle


def _block(rows: Rows) -> bytes:
    """Rows whose keys share nothing with the key before them; then where each begins, and how many begin so."""
    block, restarts = bytearray(), []
    for key, value in rows:
        restarts.append(len(block))
        block += _varint(0) + _varint(len(key)) + _varint(len(value)) + key + value
    restarts = restarts or [0]
    return bytes(block) + b"".join(n.to_bytes(4, "little") for n in [*restarts, len(restarts)])


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3 | VARINT) + _varint(value) if value else b""


def _message(field: int, content: bytes) -> bytes:
    return _varint(field << 3 | BYTES) + _varint(len(content)) + content


def _varint(number: int) -> bytes:
    """Groups of seven bits, lowest first."""
    groups = bytearray()
    while number > 0x7F:
        groups.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*groups, number])
