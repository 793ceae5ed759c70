"""Training sees every window once an epoch in an order that only seed and epoch decide.

Also tests `gpt2core.store.shuffle`.
"""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gpt2core.store.shuffle import permute
from gpt2core.store.token_store import TokenStream
from gpt2core.training.batches import Batches

KEYS = st.integers(0, 2**64 - 1)


def stream_of(length: int) -> TokenStream:
    """Each token is its own place, so a batch shows where it was read."""
    return TokenStream([np.arange(length, dtype="<u4")])


def starts_of_epoch(batches: Batches, epoch: int) -> list[int]:
    size = batches.windows_per_epoch
    return [batches.start(number) for number in range(epoch * size, (epoch + 1) * size)]


@given(st.integers(1, 3000), KEYS)
def test_a_permutation_sends_each_place_to_another_one(size: int, key: int) -> None:
    places = np.arange(size, dtype=np.uint64)
    assert sorted(permute(places, size, np.full(size, key, dtype=np.uint64)).tolist()) == list(range(size))


@pytest.mark.parametrize("size", [3, 10, 60])
def test_every_place_is_as_likely_as_any_other(size: int) -> None:
    keys = np.arange(20_000, dtype=np.uint64)
    for place in (0, size - 1):
        found = np.bincount(permute(np.full(len(keys), place, dtype=np.uint64), size, keys).astype(int), minlength=size)
        expected = len(keys) / size
        # Chi-square with size - 1 degrees of freedom, six standard deviations above its mean.
        assert ((found - expected) ** 2 / expected).sum() < size - 1 + 6 * np.sqrt(2 * (size - 1))


@given(length=st.integers(9, 400), n_ctx=st.integers(1, 8), epoch=st.integers(0, 50), seed=st.integers(0, 2**63 - 1))
def test_an_epoch_reads_every_window_once(length: int, n_ctx: int, epoch: int, seed: int) -> None:
    batches = Batches(stream_of(length), n_ctx, 4, seed)
    starts = starts_of_epoch(batches, epoch)
    tokens = sorted((start + i) % length for start in starts for i in range(n_ctx))
    assert len(starts) == length // n_ctx
    assert len(set(tokens)) == len(tokens) > length - n_ctx


def test_no_two_epochs_have_a_window_at_the_same_place() -> None:
    batches = Batches(stream_of(160), 16, 4, seed=3)
    starts = [start for epoch in range(16) for start in starts_of_epoch(batches, epoch)]
    assert sorted(starts) == list(range(160))


def test_every_token_is_reached_the_last_ones_too() -> None:
    batches = Batches(stream_of(1003), 16, 5, seed=0)
    seen = {int(token) for index in range(16 * 62 // 5) for token in batches.at(index)[0].flatten()}
    assert seen == set(range(1003))


def test_batches_are_consecutive_windows_of_the_epochs() -> None:
    batches = Batches(stream_of(103), 5, 7, seed=1)
    starts = [start for epoch in range(3) for start in starts_of_epoch(batches, epoch)]
    found = [int(row[0]) for index in range(8) for row in batches.at(index)[0]]
    assert found == starts[: len(found)]


@given(length=st.integers(5, 60), n_ctx=st.integers(1, 4), index=st.integers(0, 1000))
def test_a_target_is_the_token_after_its_input(length: int, n_ctx: int, index: int) -> None:
    inputs, targets = Batches(stream_of(length), n_ctx, 3, seed=5).at(index)
    assert inputs.dtype == targets.dtype == torch.int64
    assert inputs.shape == targets.shape == (3, n_ctx)
    assert torch.equal((inputs + 1) % length, targets)


def test_a_batch_depends_on_seed_and_index_and_on_nothing_else() -> None:
    once = Batches(stream_of(5000), 8, 4, seed=9)
    in_order = [once.at(index)[0] for index in range(700)]
    again = Batches(stream_of(5000), 8, 4, seed=9)
    for index in (699, 0, 300, 301, 299, 0):
        assert torch.equal(again.at(index)[0], in_order[index])
    assert not torch.equal(Batches(stream_of(5000), 8, 4, seed=10).at(0)[0], in_order[0])


def test_two_epochs_are_in_different_order() -> None:
    batches = Batches(stream_of(8000), 8, 4, seed=0)
    first, second = ([start // 8 for start in starts_of_epoch(batches, epoch)] for epoch in (0, 1))
    assert sum(a == b for a, b in zip(first, second, strict=True)) < 10
    assert first != sorted(first)


def test_a_batch_far_into_a_huge_store_comes_at_once(tmp_path: Path) -> None:
    with (tmp_path / "tokens").open("wb") as file:
        file.truncate(8 << 30)
    stream = TokenStream([np.asarray(np.memmap(tmp_path / "tokens", dtype="<u2", mode="r"))])
    start = time.perf_counter()
    inputs, _ = Batches(stream, 1024, 12, seed=0).at(10**9)
    assert time.perf_counter() - start < 0.5
    assert inputs.shape == (12, 1024)


def test_random_windows_start_anywhere_equally_often_and_never_go_over_the_end() -> None:
    batches = Batches(stream_of(60), 10, 4, seed=3, order="random")
    starts = [batches.start(number) for number in range(50_000)]
    counts = np.bincount(starts, minlength=50)
    assert len(counts) == 50
    assert ((counts - 1000) ** 2 / 1000).sum() < 49 + 6 * np.sqrt(98)
    inputs, targets = batches.at(7)
    assert torch.equal(inputs + 1, targets)
    assert torch.equal(Batches(stream_of(60), 10, 4, seed=3, order="random").at(7)[0], inputs)


def test_a_stream_without_a_window_is_refused() -> None:
    with pytest.raises(ValueError, match="a stream of 8 tokens has no window of 8"):
        Batches(stream_of(8), 8, 1, seed=0)
