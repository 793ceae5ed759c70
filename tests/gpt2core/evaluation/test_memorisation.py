"""Verbatim passages, against comparing everything with everything."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gpt2core.evaluation import memorisation
from gpt2core.evaluation.memorisation import SHORTEST, WINDOW, Copies, build_copy_index, open_copy_index
from gpt2core.store.token_store import TokenStream


def by_brute_force(sample: list[int], text: list[int]) -> tuple[int, int]:
    """Length of the longest passage, and how many windows of 50 tokens are found."""
    longest = 0
    for start in range(len(sample)):
        for place in range(len(text)):
            length = 0
            while (
                start + length < len(sample) and place + length < len(text) and sample[start + length] == text[place + length]
            ):
                length += 1
            longest = max(longest, length)
    windows = {tuple(text[i : i + WINDOW]) for i in range(len(text) - WINDOW + 1)}
    return longest, sum(tuple(sample[i : i + WINDOW]) in windows for i in range(len(sample) - WINDOW + 1))


def find(folder: Path, sample: list[int], text: list[int]) -> Copies:
    stream = TokenStream(np.split(np.array(text, dtype="<u2"), [len(text) // 3]))
    build_copy_index(folder, stream)
    return open_copy_index(folder, stream).find(sample)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_every_passage_of_fifteen_tokens_is_found_wherever_it_begins(tmp_path: Path, data: st.DataObject) -> None:
    random = np.random.default_rng(data.draw(st.integers(0, 10**6)))
    text = random.integers(0, 300, 260).tolist()
    sample = random.integers(0, 300, 90).tolist()
    for _ in range(data.draw(st.integers(0, 2))):
        length, place = data.draw(st.integers(3, 80)), data.draw(st.integers(0, 180))
        start = data.draw(st.integers(0, 90 - length))
        sample[start : start + length] = text[place : place + length]
    longest, windows = by_brute_force(sample, text)
    found = find(tmp_path / "index", sample, text)
    assert (found.longest.length if found.longest else 0) == (longest if longest >= SHORTEST else 0)
    assert (found.found, found.windows) == (windows, 41)
    if found.longest:
        there = text[found.longest.position : found.longest.position + found.longest.length]
        assert sample[found.longest.start : found.longest.start + found.longest.length] == there


def test_equal_hashes_are_no_evidence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memorisation, "mix", np.zeros_like)  # every run collides with every other
    found = find(tmp_path / "index", list(range(100, 200)), [*range(300, 340), *range(120, 160), *range(400, 440)])
    assert found.longest is not None
    assert (found.longest.start, found.longest.position, found.longest.length) == (20, 40, 40)
    assert found.found == 0


def test_an_index_made_in_many_parts_is_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = TokenStream([np.random.default_rng(0).integers(0, 50, 5000).astype("<u2")])
    build_copy_index(tmp_path / "one", stream)
    monkeypatch.setattr(memorisation, "PART", 100)
    monkeypatch.setattr(memorisation, "CHUNK", 256)
    build_copy_index(tmp_path / "many", stream)
    for name in ("hashes.npy", "positions.npy"):
        assert np.array_equal(np.load(tmp_path / "one" / name), np.load(tmp_path / "many" / name))
    assert sorted(path.name for path in (tmp_path / "many").iterdir()) == ["hashes.npy", "positions.npy"]


@pytest.mark.parametrize("length", [0, 1, 11, 12, 13, 15])
def test_short_texts_and_samples_have_nothing_to_copy_or_all(tmp_path: Path, length: int) -> None:
    text = list(range(length))
    found = find(tmp_path / "index", text, text)
    assert (found.longest.length if found.longest else 0) == (15 if length == 15 else 0)


def test_a_damaged_index_is_made_again(tmp_path: Path) -> None:
    text = list(range(100))
    stream = TokenStream([np.array(text, dtype="<u2")])
    build_copy_index(tmp_path / "index", stream)
    (tmp_path / "index" / "hashes.npy").write_bytes(b"\x93NUMPY")
    found = open_copy_index(tmp_path / "index", stream).find(text[20:80])
    assert found.longest is not None
    assert (found.longest.length, found.found) == (60, 11)
