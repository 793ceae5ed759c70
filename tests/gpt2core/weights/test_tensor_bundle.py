"""The reader against OpenAI's own files, and against bundles written here by the format's description."""

import shutil
import struct
from contextlib import suppress
from pathlib import Path

import google_crc32c
import numpy as np
import pyarrow
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from configs.errors import UserError
from gpt2core.weights.tensor_bundle import read_tensor_bundle

DTYPE_NUMBERS = {
    "float32": 1,
    "float64": 2,
    "int32": 3,
    "uint8": 4,
    "int16": 5,
    "int8": 6,
    "int64": 9,
    "bool": 10,
    "uint16": 17,
    "float16": 19,
    "uint32": 22,
    "uint64": 23,
}


def varint(number: int) -> bytes:
    out = bytearray()
    while number > 127:
        out.append(number % 128 + 128)
        number //= 128
    return bytes([*out, number])


def masked_crc(data: bytes) -> bytes:
    crc = google_crc32c.value(data)
    return struct.pack("<I", ((crc // 2**15) + (crc % 2**15) * 2**17 + 0xA282EAD8) % 2**32)


def number_field(field: int, value: int) -> bytes:
    return varint(field * 8) + varint(value)


def bytes_field(field: int, value: bytes) -> bytes:
    return varint(field * 8 + 2) + varint(len(value)) + value


def entry(dtype: int, shape: tuple[int, ...], shard: int, offset: int, size: int, crc: bytes) -> bytes:
    dims = b"".join(bytes_field(2, number_field(1, dim)) for dim in shape)
    place = number_field(3, shard) + number_field(4, offset) + number_field(5, size)
    return number_field(1, dtype) + bytes_field(2, dims) + place + varint(6 * 8 + 5) + crc


def rows_block(rows: list[tuple[bytes, bytes]]) -> bytes:
    body = b"".join(varint(0) + varint(len(key)) + varint(len(value)) + key + value for key, value in rows)
    return body + struct.pack("<II", 0, 1)


def write_table(file: Path, blocks: list[bytes], snappy: bool = False) -> None:
    """A LevelDB table with these data blocks, every checksum right."""
    table, handles = bytearray(), []

    def add(block: bytes, compress: bool = False) -> bytes:
        stored = pyarrow.Codec("snappy").compress(block, asbytes=True) if compress else block
        handle = varint(len(table)) + varint(len(stored))
        stored += b"\1" if compress else b"\0"
        table.extend(stored + masked_crc(stored))
        return handle

    handles = [add(block, snappy) for block in blocks]
    footer = add(rows_block([])) + add(rows_block([(bytes([255, n]), handle) for n, handle in enumerate(handles)]))
    file.write_bytes(bytes(table) + footer.ljust(40, b"\0") + struct.pack("<Q", 0xDB4775248B80FB57))


def write_bundle(folder: Path, shards: list[dict[str, np.ndarray]], snappy: bool = False) -> Path:
    rows = [(b"", number_field(1, len(shards)))]
    for shard, arrays in enumerate(shards):
        data = b""
        for name, array in arrays.items():
            raw = array.tobytes()
            value = entry(DTYPE_NUMBERS[array.dtype.name], array.shape, shard, len(data), len(raw), masked_crc(raw))
            rows.append((name.encode(), value))
            data += raw
        (folder / f"model.data-{shard:05d}-of-{len(shards):05d}").write_bytes(data)
    rows.sort()
    write_table(folder / "model.index", [rows_block(rows[:3]), rows_block(rows[3:])], snappy)
    return folder / "model"


def one_variable(folder: Path, value: bytes, data: bytes = b"\0" * 8, header: bytes = number_field(1, 1)) -> Path:
    (folder / "model.data-00000-of-00001").write_bytes(data)
    write_table(folder / "model.index", [rows_block([(b"", header), (b"x", value)])])
    return folder / "model"


@pytest.fixture
def checkpoint(golden: Path, tmp_path: Path) -> Path:
    """A copy of OpenAI's layout that may be damaged; the prefix."""
    for file in (golden / "openai-tiny" / "models" / "tiny").glob("model.ckpt.*"):
        shutil.copy(file, tmp_path)
    return tmp_path / "model.ckpt"


def test_every_variable_equals_the_plain_arrays(golden: Path) -> None:
    expected = np.load(golden / "openai-tiny" / "tiny-weights.npz")
    found = read_tensor_bundle(golden / "openai-tiny" / "models" / "tiny" / "model.ckpt")
    assert sorted(found) == sorted(expected.files)
    for name, array in found.items():
        assert array.dtype == expected[name].dtype
        np.testing.assert_array_equal(array, expected[name])


def test_arrays_are_mapped_and_writing_to_one_changes_no_file(checkpoint: Path) -> None:
    data = Path(f"{checkpoint}.data-00000-of-00001")
    before = data.read_bytes()
    array = read_tensor_bundle(checkpoint)["model/wte"]
    assert not array.flags.owndata
    array[:] = 0
    assert data.read_bytes() == before


@pytest.mark.parametrize("snappy", [False, True])
def test_several_data_files_every_type_scalars_and_empty_arrays_are_read(tmp_path: Path, snappy: bool) -> None:
    numbers = np.random.default_rng(0)
    plain = {name: (numbers.random((3, 5)) * 100).astype(name) for name in DTYPE_NUMBERS}
    odd = {"scalar": np.array(7, np.int64), "empty": np.empty((0, 4), np.float32), "é/long": np.arange(300, dtype=np.int16)}
    found = read_tensor_bundle(write_bundle(tmp_path, [plain, {}, odd], snappy))
    assert sorted(found) == sorted(plain | odd)
    for name, array in (plain | odd).items():
        assert found[name].dtype == array.dtype
        np.testing.assert_array_equal(found[name], array)


def test_a_flipped_bit_anywhere_in_the_index_is_found_or_changes_nothing(checkpoint: Path) -> None:
    index = Path(f"{checkpoint}.index")
    good, expected = index.read_bytes(), read_tensor_bundle(checkpoint)
    silent = []
    for position in range(len(good)):
        index.write_bytes(good[:position] + bytes([good[position] ^ 1 << position % 8]) + good[position + 1 :])
        with suppress(UserError):
            found = read_tensor_bundle(checkpoint)
            silent.append(position)
            assert all(np.array_equal(found[name], expected[name]) for name in expected)
    assert all(position >= len(good) - 48 for position in silent)  # only the footer's padding means nothing


def test_a_flipped_bit_in_the_data_names_the_file_and_the_variable(tmp_path: Path) -> None:
    arrays = {"a": np.arange(100, dtype=np.float32), "b": np.arange(50, dtype=np.float32)}
    prefix = write_bundle(tmp_path, [arrays])
    data = tmp_path / "model.data-00000-of-00001"
    good = data.read_bytes()
    for position in (0, 1, 399, 400, 599):
        data.write_bytes(good[:position] + bytes([good[position] ^ 16]) + good[position + 1 :])
        with pytest.raises(UserError, match=rf"{data}.*variable {'a' if position < 400 else 'b'} "):
            read_tensor_bundle(prefix)


def test_a_truncated_index_is_found_at_every_length(checkpoint: Path) -> None:
    index = Path(f"{checkpoint}.index")
    good = index.read_bytes()
    for length in range(len(good)):
        index.write_bytes(good[:length])
        with pytest.raises(UserError, match="index is damaged"):
            read_tensor_bundle(checkpoint)


@pytest.mark.parametrize("kept", [0, 1, 100_000, 395_135])
def test_a_truncated_data_file_is_found(checkpoint: Path, kept: int) -> None:
    data = Path(f"{checkpoint}.data-00000-of-00001")
    data.write_bytes(data.read_bytes()[:kept])
    with pytest.raises(UserError, match=f"{data} is truncated: it ends before variable model/"):
        read_tensor_bundle(checkpoint)


@pytest.mark.parametrize("ending", [".index", ".data-00000-of-00001"])
def test_a_missing_file_is_named(checkpoint: Path, ending: str) -> None:
    Path(f"{checkpoint}{ending}").unlink()
    with pytest.raises(UserError, match=f"{checkpoint}{ending} is missing"):
        read_tensor_bundle(checkpoint)


def test_a_folder_in_place_of_a_file_is_named(checkpoint: Path) -> None:
    data = Path(f"{checkpoint}.data-00000-of-00001")
    data.unlink()
    data.mkdir()
    with pytest.raises(UserError, match=f"{data} cannot be read"):
        read_tensor_bundle(checkpoint)


@pytest.mark.parametrize(
    ("value", "complaint"),
    [
        (entry(7, (2,), 0, 0, 8, b"\0" * 4), "data type 7"),
        (entry(1, (2,), 0, 0, 8, masked_crc(b"\0" * 8)) + bytes_field(7, b""), "in slices"),
        (entry(1, (3,), 0, 0, 8, masked_crc(b"\0" * 8)), "contradicts itself about variable x"),
        (entry(1, (2,), 1, 0, 8, masked_crc(b"\0" * 8)), "contradicts itself about variable x"),
        (entry(1, (0, 2**62), 0, 0, 0, masked_crc(b"")), "contradicts itself about variable x"),
        (entry(1, (2,), 0, 4, 8, masked_crc(b"\0" * 8)), "truncated"),
    ],
)
def test_a_variable_that_cannot_be_read_is_named(tmp_path: Path, value: bytes, complaint: str) -> None:
    with pytest.raises(UserError, match=complaint):
        read_tensor_bundle(one_variable(tmp_path, value))


@pytest.mark.parametrize(
    ("header", "complaint"),
    [(number_field(1, 1) + number_field(2, 1), "big-endian"), (number_field(1, 0), "0 data files"), (b"", "0 data files")],
)
def test_a_header_that_cannot_be_read_is_explained(tmp_path: Path, header: bytes, complaint: str) -> None:
    value = entry(1, (2,), 0, 0, 8, masked_crc(b"\0" * 8))
    with pytest.raises(UserError, match=complaint):
        read_tensor_bundle(one_variable(tmp_path, value, header=header))


@settings(max_examples=300, deadline=None)
@given(block=st.binary(max_size=60), value=st.binary(max_size=40))
def test_an_index_with_right_checksums_and_senseless_content_ends_in_a_sentence(
    tmp_path_factory: pytest.TempPathFactory, block: bytes, value: bytes
) -> None:
    folder = tmp_path_factory.getbasetemp() / "senseless"
    folder.mkdir(exist_ok=True)
    prefix = one_variable(folder, value)
    with pytest.raises(UserError):
        read_tensor_bundle(prefix)
    write_table(folder / "model.index", [rows_block([(b"", number_field(1, 1))]), block])
    with suppress(UserError):
        read_tensor_bundle(prefix)
