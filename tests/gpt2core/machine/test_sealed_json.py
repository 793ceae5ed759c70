"""What is sealed is found changed by a single bit; files of earlier versions are read as they were."""

import hashlib
import json
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import xxhash

from gpt2core.machine.sealed_json import DamagedFileError, read_sealed, seal_of, write_sealed

VALUE = {"name": "größte", "loss": 0.1 + 0.2, "steps": [1, 2], "nested": {"seal": "none"}, "empty": {}}


def in_lines(value: dict[str, Any]) -> str:
    return json.dumps(value, indent=1, ensure_ascii=False) + "\n"


def checksum_last(made: Callable[[bytes], Any]) -> str:
    """As 0.1.0 wrote a checkpoint's manifest (128 bits), a run's small files and an evaluation's report (64 bits)."""
    return in_lines({**VALUE, "checksum": made(json.dumps(VALUE, sort_keys=True).encode()).hexdigest()})


def checksum_first() -> str:
    """As 0.1.0 wrote the manifest of a token store."""
    return in_lines({"checksum": hashlib.sha256(json.dumps(VALUE, sort_keys=True).encode()).hexdigest(), **VALUE})


EARLIER = {
    "checkpoint": checksum_last(xxhash.xxh3_128),
    "run": checksum_last(xxhash.xxh3_64),
    "store": checksum_first(),
    "unsealed": in_lines(VALUE),
}


def assert_damaged(file: Path) -> None:
    with pytest.raises(DamagedFileError, match="is damaged, its content differs"):
        read_sealed(file)


def assert_every_flip_is_found(file: Path, positions: Iterable[int]) -> None:
    content = file.read_bytes()
    with file.open("r+b", buffering=0) as changed:
        for position in positions:
            for bit in range(8):
                os.pwrite(changed.fileno(), bytes([content[position] ^ 1 << bit]), position)
                assert_damaged(file)
            os.pwrite(changed.fileno(), content[position : position + 1], position)


def test_what_is_sealed_is_json_and_comes_back(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    write_sealed(file, VALUE)
    assert read_sealed(file) == VALUE
    assert json.loads(file.read_text(encoding="utf-8")) == {"seal": seal_of(file), **VALUE}


def test_every_flipped_bit_is_found(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    write_sealed(file, VALUE)
    assert_every_flip_is_found(file, range(len(file.read_bytes())))


def test_white_space_and_digits_beyond_a_double_count(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    write_sealed(file, VALUE)
    content = file.read_bytes()
    for changed in (content + b"\n", content.replace(b"0.30000000000000004", b"0.30000000000000003"), content[:-1], b""):
        file.write_bytes(changed)
        assert_damaged(file)


@pytest.mark.parametrize("kind", EARLIER)
def test_a_file_of_an_earlier_version_is_read(kind: str, tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    file.write_text(EARLIER[kind], encoding="utf-8")
    assert read_sealed(file) == VALUE
    assert seal_of(file) == json.loads(EARLIER[kind]).get("checksum", "")


@pytest.mark.parametrize("kind", ["checkpoint", "run", "store"])
def test_a_flipped_bit_of_a_file_of_an_earlier_version_is_found_but_in_the_name_of_its_checksum(
    kind: str, tmp_path: Path
) -> None:
    file, content = tmp_path / "a.json", EARLIER[kind].encode()
    file.write_bytes(content)
    name = content.index(b"checksum")
    assert_every_flip_is_found(file, [at for at in range(len(content)) if not name <= at < name + len("checksum")])


def test_a_file_that_is_not_there_is_not_damaged(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_sealed(tmp_path / "a.json")


@pytest.mark.parametrize("text", ["", "5\n", "[]\n", "nothing", "\xff"])
def test_what_is_no_object_is_damaged(text: str, tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    file.write_text(text, encoding="latin-1")
    assert_damaged(file)
