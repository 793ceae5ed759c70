"""Any flipped bit of a store is found, and the file it is in is named."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import pytest

from gpt2core.store.contracts import damaged_store_files
from gpt2core.store.token_store import TokenStore


@pytest.fixture
def copy(store: TokenStore, tmp_path: Path) -> Path:
    return Path(shutil.copytree(store.path, tmp_path / "store"))


def test_a_sound_store_has_no_damaged_files(store: TokenStore) -> None:
    assert damaged_store_files(store.path) == []


def test_a_flipped_bit_anywhere_is_found_in_the_file_where_it_is(copy: Path) -> None:
    draw = random.Random(1)
    for path in sorted(copy.iterdir()):
        whole = path.read_bytes()
        for place in {0, len(whole) // 2, len(whole) - 1, *(draw.randrange(len(whole)) for _ in range(10))}:
            damaged = bytearray(whole)
            damaged[place] ^= 1 << draw.randrange(8)
            path.write_bytes(damaged)
            assert [name for name, _ in damaged_store_files(copy)] == [path.name]
        path.write_bytes(whole)
    assert damaged_store_files(copy) == []


def test_what_is_missing_and_what_does_not_belong_is_named(copy: Path) -> None:
    (copy / "tokens-train-00000.parquet").unlink()
    (copy / "notes.txt").write_text("mine")
    assert damaged_store_files(copy) == [
        ("tokens-train-00000.parquet", "it is missing"),
        ("notes.txt", "it does not belong to the store"),
    ]
