"""A store is read as one stream, and any damage to it is found before it is used."""

from __future__ import annotations

import mmap
import random
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from configs.errors import UserError
from gpt2core.store.token_store import TokenStore, TokenStream, open_store, require_block


@pytest.fixture
def copy(store: TokenStore, tmp_path: Path) -> Path:
    return Path(shutil.copytree(store.path, tmp_path / "store"))


@given(st.lists(st.integers(1, 9), min_size=1), st.data())
def test_a_window_may_cross_any_number_of_shards(lengths: list[int], data: st.DataObject) -> None:
    tokens = np.arange(sum(lengths), dtype="<u2")
    stream = TokenStream(np.split(tokens, np.cumsum(lengths)[:-1]))
    assert len(stream) == len(tokens)
    start = data.draw(st.integers(0, len(tokens)))
    length = data.draw(st.integers(0, len(tokens) - start))
    out = np.empty(length, dtype=np.int64)
    stream.read(start, length, out)
    assert np.array_equal(out, tokens[start : start + length])


@given(st.lists(st.integers(1, 9), min_size=1), st.data())
def test_windows_read_the_stream_as_a_ring(lengths: list[int], data: st.DataObject) -> None:
    tokens = np.arange(sum(lengths), dtype="<u2")
    stream = TokenStream(np.split(tokens, np.cumsum(lengths)[:-1]))
    starts = data.draw(st.lists(st.integers(0, len(tokens) - 1), min_size=1, max_size=4))
    length = data.draw(st.integers(1, len(tokens)))
    found = stream.windows(starts, length)
    assert found.dtype == tokens.dtype
    assert np.array_equal(found, [(start + np.arange(length)) % len(tokens) for start in starts])


@pytest.mark.parametrize(("start", "length"), [(-1, 1), (0, 11), (10, 1), (11, 0)])
def test_reading_beyond_the_stream_is_refused(start: int, length: int) -> None:
    with pytest.raises(IndexError):
        TokenStream([np.arange(10)]).read(start, length, np.empty(max(0, length)))


def test_every_flipped_bit_is_found_and_its_file_named(copy: Path) -> None:
    draw = random.Random(0)
    for path in sorted(copy.iterdir()):
        whole = path.read_bytes()
        places = {0, len(whole) - 1, *(draw.randrange(len(whole)) for _ in range(30))}
        for place in sorted(places):
            damaged = bytearray(whole)
            damaged[place] ^= 1 << draw.randrange(8)
            path.write_bytes(damaged)
            with pytest.raises(UserError, match=rf"{path.name} is damaged"):
                open_store(copy)
        path.write_bytes(whole)
    open_store(copy)


def test_a_file_that_is_cut_short_is_found_without_reading_it(copy: Path) -> None:
    path = copy / "tokens-train-00000.parquet"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(UserError, match=r"tokens-train-00000\.parquet is damaged"):
        open_store(copy, verify=False)


def test_a_missing_file_is_named(copy: Path) -> None:
    (copy / "documents-00000.parquet").unlink()
    with pytest.raises(UserError, match=r"documents-00000\.parquet is missing from the token store: delete the folder"):
        open_store(copy)


def test_what_is_no_store_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"is not a token store \(manifest\.json: No such file or directory\)"):
        open_store(tmp_path)


def test_a_store_can_be_moved(copy: Path, store: TokenStore) -> None:
    moved = open_store(copy)
    assert moved.hash == store.hash == store.path.name
    assert moved.documents().equals(store.documents())


def test_opening_copies_no_tokens(store: TokenStore) -> None:
    for memory in store.stream("train")._segments:
        while isinstance(memory, np.ndarray):
            memory = memory.base
        assert isinstance(memory, mmap.mmap)


def test_a_text_shorter_than_a_block_is_refused_with_both_numbers(store: TokenStore) -> None:
    tokens = store.manifest.counts["validation"].tokens
    require_block(store, tokens - 1)
    sentence = rf"The validation text has {tokens:,} tokens but a block of model\.n_ctx {tokens:,} needs {tokens + 1:,}"
    with pytest.raises(UserError, match=sentence):
        require_block(store, tokens)
