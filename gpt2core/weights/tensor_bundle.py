"""Reads the checkpoints that TensorFlow writes ("tensor bundles") without TensorFlow.

A bundle is an index, PREFIX.index, and the raw values, PREFIX.data-SSSSS-of-NNNNN. The index is a sorted string table in
LevelDB's format whose values are protocol-buffer messages. Sources: tensorflow/core/protobuf/tensor_bundle.proto,
tensorflow/core/util/tensor_bundle, leveldb/doc/table_format.md. Nothing here knows GPT-2.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
from numpy.typing import NDArray

from configs.errors import UserError

FOOTER_SIZE = 48
TABLE_MAGIC = 0xDB4775248B80FB57
BLOCK_TRAILER_SIZE = 5  # compression type, masked crc32c
UNCOMPRESSED, SNAPPY = 0, 1
VARINT, BYTES = 0, 2  # protocol-buffer wire types
MOST_INDEX = 1 << 28  # bytes; that of the largest GPT-2 has 40,000
FIXED_SIZES = {1: 8, 5: 4}  # wire type to bytes

DTYPES = {
    1: "<f4",
    2: "<f8",
    3: "<i4",
    4: "|u1",
    5: "<i2",
    6: "|i1",
    9: "<i8",
    10: "|b1",
    17: "<u2",
    19: "<f2",
    22: "<u4",
    23: "<u8",
}
"""tensorflow.DataType number to NumPy's little-endian type."""


@dataclass(frozen=True)
class Entry:
    """Where one variable lies and what it is: tensor_bundle.proto's BundleEntryProto."""

    dtype: int
    shape: tuple[int, ...]
    shard: int
    offset: int
    size: int
    masked_crc: int
    sliced: bool


def read_tensor_bundle(prefix: Path) -> dict[str, NDArray[Any]]:
    """All variables of the checkpoint `prefix` by name, as arrays that lie in memory maps of the data files.

    The maps are private: writing to an array changes no file. Every byte used is checked against its crc32c first. Raises
    UserError where the index or a data file is missing, truncated or damaged, and where a variable is of a kind that
    cannot be read (strings, slices, big-endian).
    """
    index = prefix.with_name(prefix.name + ".index")
    table = _read_bytes(index)
    try:
        shards, entries = _parse_index(table)
    except (ValueError, IndexError) as error:
        raise UserError(f"{index} is damaged ({error}): fetch the checkpoint again.") from error
    files = [prefix.with_name(f"{prefix.name}.data-{shard:05d}-of-{shards:05d}") for shard in range(shards)]
    data = [_map_bytes(file) for file in files]
    return {name: _read_variable(name, entry, files, data) for name, entry in entries.items()}


def _read_bytes(file: Path) -> bytes:
    try:
        if (size := file.stat().st_size) > MOST_INDEX:
            raise UserError(f"{file} has {size:,} bytes, which no index of a GPT-2 has: fetch the checkpoint again.")
        return file.read_bytes()
    except FileNotFoundError as error:
        raise UserError(f"{file} is missing: copy the checkpoint's .index and .data files together.") from error
    except OSError as error:
        raise UserError(f"{file} cannot be read ({error.strerror}): check its permissions.") from error


def _map_bytes(file: Path) -> NDArray[np.uint8]:
    """The file as a uint8 [size] array, mapped and not read."""
    try:
        return np.memmap(file, np.uint8, "c") if file.stat().st_size else np.empty(0, np.uint8)
    except FileNotFoundError as error:
        raise UserError(f"{file} is missing: copy the checkpoint's .index and .data files together.") from error
    except OSError as error:
        raise UserError(f"{file} cannot be read ({error.strerror}): check its permissions.") from error


def _read_variable(name: str, entry: Entry, files: list[Path], data: list[NDArray[np.uint8]]) -> NDArray[Any]:
    if entry.sliced or entry.dtype not in DTYPES:
        kind = "saved in slices" if entry.sliced else f"of TensorFlow's data type {entry.dtype}"
        raise UserError(f"Variable {name} of {files[0]} is {kind}, which cannot be read: save it again as one plain array.")
    dtype, contradiction = np.dtype(DTYPES[entry.dtype]), f"The index of {files[0]} contradicts itself about variable {name}"
    if entry.shard >= len(files) or math.prod(entry.shape) * dtype.itemsize != entry.size:
        raise UserError(f"{contradiction}: fetch the checkpoint again.")
    file, shard = files[entry.shard], data[entry.shard]
    if entry.offset + entry.size > shard.size:
        raise UserError(f"{file} is truncated: it ends before variable {name} does, so fetch the checkpoint again.")
    values = shard[entry.offset : entry.offset + entry.size]
    if masked_crc(values) != entry.masked_crc:
        raise UserError(f"{file} is damaged: variable {name} does not match its checksum, so fetch the checkpoint again.")
    try:
        return np.ndarray(entry.shape, dtype, values)
    except ValueError as error:  # too many dimensions, or one out of all bounds beside one of 0
        raise UserError(f"{contradiction} ({error}): fetch the checkpoint again.") from error


def masked_crc(values: bytes | NDArray[np.uint8]) -> int:
    """crc32c, rotated and shifted by a constant, as LevelDB stores it."""
    crc: int = google_crc32c.value(values)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def _parse_index(table: bytes) -> tuple[int, dict[str, Entry]]:
    """Number of data files and the variables' entries; raises ValueError or IndexError where the bytes make no sense."""
    rows = dict(_table_rows(table))
    header = dict(_fields(rows.pop(b"", b"")))
    if _number(header, 2):
        raise ValueError("it was written on a big-endian machine")
    shards = _number(header, 1)
    if not 1 <= shards <= 99999:
        raise ValueError(f"it names {shards} data files")
    return shards, {key.decode(): _entry(value) for key, value in rows.items()}


def _table_rows(table: bytes) -> Iterator[tuple[bytes, bytes]]:
    """The keys and values of a LevelDB table, in order."""
    footer = table[-FOOTER_SIZE:]
    if len(table) < FOOTER_SIZE or int.from_bytes(footer[-8:], "little") != TABLE_MAGIC:
        raise ValueError("it does not end like the index of a TensorFlow checkpoint")
    meta, position = _handle(footer, 0)
    top, _ = _handle(footer, position)
    _block(table, *meta)  # holds nothing for us, but damage there is damage
    for _, handle in _block_rows(_block(table, *top)):
        yield from _block_rows(_block(table, *_handle(handle, 0)[0]))


def _handle(data: bytes, position: int) -> tuple[tuple[int, int], int]:
    """A block's (offset, size), and the position behind it."""
    offset, position = _varint(data, position)
    size, position = _varint(data, position)
    return (offset, size), position


def _block(table: bytes, offset: int, size: int) -> bytes:
    """The contents of one block, behind its checksum."""
    stored, trailer = table[offset : offset + size + 1], table[offset + size : offset + size + BLOCK_TRAILER_SIZE]
    if len(trailer) < BLOCK_TRAILER_SIZE:
        raise ValueError("it is truncated")
    if masked_crc(stored) != int.from_bytes(trailer[1:], "little"):
        raise ValueError(f"the block at byte {offset} does not match its checksum")
    if trailer[0] == SNAPPY:
        return _snappy(stored[:-1])
    if trailer[0] != UNCOMPRESSED:
        raise ValueError(f"the block at byte {offset} has the unknown compression {trailer[0]}")
    return stored[:-1]


def _snappy(stored: bytes) -> bytes:
    from pyarrow import Codec  # rare, and slow to import

    size, _ = _varint(stored, 0)
    if size > 64 * len(stored):  # above what the format can reach
        raise ValueError("a compressed block announces an impossible size")
    try:
        return Codec("snappy").decompress(stored, size, asbytes=True)  # type: ignore[no-any-return]
    except OSError as error:
        raise ValueError("a compressed block cannot be unpacked") from error


def _block_rows(block: bytes) -> Iterator[tuple[bytes, bytes]]:
    """The keys and values of one block; a key stores only what differs from the key before it."""
    restarts = int.from_bytes(block[-4:], "little")
    end = len(block) - 4 * (restarts + 1)
    position, key = 0, b""
    while position < end:
        shared, position = _varint(block, position)
        fresh, position = _varint(block, position)
        size, position = _varint(block, position)
        if shared > len(key) or position + fresh + size > end:
            raise ValueError("an entry passes the end of its block")
        key = key[:shared] + block[position : position + fresh]
        yield key, block[position + fresh : position + fresh + size]
        position += fresh + size


def _entry(value: bytes) -> Entry:
    """BundleEntryProto: dtype 1, shape 2, shard_id 3, offset 4, size 5, crc32c 6, slices 7."""
    fields = dict(_fields(value))
    return Entry(
        dtype=_number(fields, 1),
        shape=_shape(fields.get(2, b"")),
        shard=_number(fields, 3),
        offset=_number(fields, 4),
        size=_number(fields, 5),
        masked_crc=_number(fields, 6),
        sliced=7 in fields,
    )


def _shape(message: int | bytes) -> tuple[int, ...]:
    """TensorShapeProto: repeated dim 2, each a message with size 1."""
    return tuple(_number(dict(_fields(value)), 1) for field, value in _fields(message) if field == 2)


def _number(fields: dict[int, int | bytes], field: int) -> int:
    """A number of a message; what is not written is 0."""
    value = fields.get(field, 0)
    if not isinstance(value, int):
        raise ValueError(f"field {field} of an entry is not a number")
    return value


def _fields(message: int | bytes) -> Iterator[tuple[int, int | bytes]]:
    """A protocol-buffer message as pairs of field number and value."""
    if not isinstance(message, bytes):
        raise ValueError("an entry has a number where a message belongs")
    position = 0
    while position < len(message):
        tag, position = _varint(message, position)
        value: int | bytes
        if tag & 7 == VARINT:
            value, position = _varint(message, position)
        elif tag & 7 == BYTES:
            size, position = _varint(message, position)
            value, position = message[position : position + size], position + size
        elif tag & 7 in FIXED_SIZES:
            size = FIXED_SIZES[tag & 7]
            value, position = int.from_bytes(message[position : position + size], "little"), position + size
        else:
            raise ValueError(f"an entry has the unknown wire type {tag & 7}")
        yield tag >> 3, value
    if position > len(message):
        raise ValueError("an entry is cut short")


def _varint(data: bytes, position: int) -> tuple[int, int]:
    """A number in groups of seven bits, lowest first, and the position behind it."""
    value = shift = 0
    while data[position] & 0x80:
        value |= (data[position] & 0x7F) << shift
        position, shift = position + 1, shift + 7
        if shift > 63:
            raise ValueError("a number is longer than 64 bits")
    return value | data[position] << shift, position + 1
