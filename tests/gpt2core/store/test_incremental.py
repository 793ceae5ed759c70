"""Only what is new is read and encoded; what was killed goes on; the bytes of a store depend on what went in alone.

Also tests `gpt2core.store.reuse`.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from configs.errors import UserError
from configs.schema import DataSettings
from gpt2core.store import encoding, scan, shard_plan, shards
from gpt2core.store.encoding import ShardWork, encode_store, encode_work
from gpt2core.store.index import FILE
from gpt2core.store.token_store import open_store
from gpt2core.text.documents import find_files
from gpt2core.text.tokenizer import Tokenizer, load_tokenizer

ENCODE = """
import sys
from pathlib import Path
from configs.schema import DataSettings
from gpt2core.store import shard_plan
from gpt2core.text.documents import find_files
from gpt2core.store.encoding import ShardWork, encode_store, encode_work
from gpt2core.text.tokenizer import load_tokenizer
shard_plan.SHARD_BYTES = 8_000
settings = DataSettings(source=sys.argv[1])
print("ready", flush=True)
print(encode_store(find_files(settings), settings, load_tokenizer(sys.argv[2]), Path(sys.argv[3])).name)
"""


def encode(source: Path, tokenizer: Tokenizer, stores: Path) -> Path:
    chosen = DataSettings(source=str(source))
    return encode_store(find_files(chosen), chosen, tokenizer, stores)


def content(store: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in store.iterdir()}


def stores_in(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if not path.name.startswith(FILE)]


@pytest.fixture
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shard_plan, "SHARD_BYTES", 8_000)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "corpus"
    root.mkdir()
    for number in range(300):
        (root / f"{number:04}.txt").write_text(f"Story {number}.\n" + "And so on. " * (number % 40))
    return root


@pytest.fixture
def heard(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[str]]:
    """Names of the files that are read, and texts that are encoded."""
    found: dict[str, list[str]] = {"read": [], "encoded": []}

    def listen(module: object) -> None:
        original = module.pieces_of  # type: ignore[attr-defined]

        def pieces_of(file, *rest):  # type: ignore[no-untyped-def]
            found["read"].append(file.source)
            return original(file, *rest)

        monkeypatch.setattr(module, "pieces_of", pieces_of)

    for module in (scan, shards, shard_plan):
        listen(module)
    original: Callable[..., object] = Tokenizer.encode_ordinary
    monkeypatch.setattr(
        Tokenizer, "encode_ordinary", lambda self, texts: (found["encoded"].extend(texts), original(self, texts))[1]
    )
    return found


def test_of_many_files_only_the_new_one_is_read_and_encoded(
    folder: Path, tokenizer: Tokenizer, tmp_path: Path, small_shards: None, heard: dict[str, list[str]]
) -> None:
    before = encode(folder, tokenizer, tmp_path / "stores")
    old = content(before)
    assert len(set(heard["read"])) == 300
    heard["read"].clear()
    heard["encoded"].clear()
    (folder / "0150-new.txt").write_text("A new story.")
    after = encode(folder, tokenizer, tmp_path / "stores")
    assert set(heard["read"]) == {"0150-new.txt"}
    assert heard["encoded"] == ["A new story."]
    assert content(before) == old
    assert content(after) == content(encode(folder, tokenizer, tmp_path / "fresh"))


def test_a_store_has_no_more_what_was_removed(
    folder: Path, tokenizer: Tokenizer, tmp_path: Path, small_shards: None, heard: dict[str, list[str]]
) -> None:
    encode(folder, tokenizer, tmp_path / "stores")
    heard["encoded"].clear()
    (folder / "0150.txt").unlink()
    after = encode(folder, tokenizer, tmp_path / "stores")
    assert heard["encoded"] == []
    assert "0150.txt" not in open_store(after).documents()["source"].to_pylist()
    assert content(after) == content(encode(folder, tokenizer, tmp_path / "fresh"))


def test_a_damaged_shard_alone_is_encoded_again(
    folder: Path, tokenizer: Tokenizer, tmp_path: Path, small_shards: None, heard: dict[str, list[str]]
) -> None:
    store = encode(folder, tokenizer, tmp_path / "stores")
    whole = content(store)
    heard["encoded"].clear()
    path = store / "tokens-train-00003.parquet"
    path.write_bytes(bytes([path.read_bytes()[0] ^ 1]) + path.read_bytes()[1:])
    assert encode(folder, tokenizer, tmp_path / "stores") == store
    rows = [row for row in open_store(store).documents().to_pylist() if row["split"] == "train"]
    assert 0 < len(heard["encoded"]) < len(rows) / 5
    assert content(store) == whole
    assert stores_in(tmp_path / "stores") == [store]


def test_finished_shards_of_a_stopped_encode_are_kept(
    folder: Path,
    tokenizer: Tokenizer,
    tmp_path: Path,
    small_shards: None,
    heard: dict[str, list[str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    expected = encode(folder, tokenizer, tmp_path / "undisturbed")
    everything = len(heard["encoded"])
    original = shards.ShardEncoder.encode

    def stop_at_the_fifth(self: shards.ShardEncoder, shard: int, advance: object) -> None:
        if shard == 5:
            raise KeyboardInterrupt
        original(self, shard, advance)  # type: ignore[arg-type]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shards.ShardEncoder, "encode", stop_at_the_fifth)
        with pytest.raises(KeyboardInterrupt):
            encode(folder, tokenizer, tmp_path / "stopped")
    heard["read"].clear()
    heard["encoded"].clear()
    again = encode(folder, tokenizer, tmp_path / "stopped")
    assert 0 < len(heard["encoded"]) < everything - 100
    assert content(again) == content(expected)
    assert stores_in(tmp_path / "stopped") == [again]


@pytest.mark.parametrize("workers", [3, 1000])
def test_shards_that_are_shared_out_have_the_same_bytes(
    folder: Path, tokenizer: Tokenizer, tmp_path: Path, small_shards: None, workers: int
) -> None:
    expected = content(encode(folder, tokenizer, tmp_path / "alone"))
    chosen = DataSettings(source=str(folder), workers=workers)

    def last_ones_first(works: list[ShardWork]) -> None:
        for work in reversed(works):
            encode_work(work)

    store = encode_store(find_files(chosen), chosen, tokenizer, tmp_path / "shared", share_out=last_ones_first)
    assert content(store) == expected


def test_shared_out_work_ends_when_whoever_shared_it_out_is_gone(
    folder: Path, tokenizer: Tokenizer, tmp_path: Path, small_shards: None
) -> None:
    expected = content(encode(folder, tokenizer, tmp_path / "alone"))
    chosen = DataSettings(source=str(folder), workers=4)
    given: list[ShardWork] = []

    def stop(works: list[ShardWork]) -> None:
        given.extend(works)
        encode_work(works[1])
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        encode_store(find_files(chosen), chosen, tokenizer, tmp_path / "stopped", share_out=stop)
    with pytest.raises(UserError, match="was stopped: run it again"):
        encode_work(given[0])
    assert content(encode(folder, tokenizer, tmp_path / "stopped")) == expected
    assert len(stores_in(tmp_path / "stopped")) == 1


def kill_at_random_moments(folder: Path, tokenizer: Tokenizer, tmp_path: Path, times: int) -> None:
    vocabulary = tokenizer.save(tmp_path / "vocabulary")
    expected = encode(folder, tokenizer, tmp_path / "undisturbed")
    killed = tmp_path / "killed"
    command = [sys.executable, "-c", ENCODE, str(folder), str(vocabulary), str(killed)]
    draw = random.Random(0)
    for _ in range(times):
        with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
            assert process.stdout and process.stdout.readline() == b"ready\n"
            time.sleep(draw.uniform(0, 1.5))
            process.send_signal(signal.SIGKILL)
        if (killed / expected.name).exists():
            assert content(killed / expected.name) == content(expected)
            shutil.rmtree(killed)
    assert encode(folder, tokenizer, killed).name == expected.name
    assert content(killed / expected.name) == content(expected)
    assert stores_in(killed) == [killed / expected.name]


def test_an_encode_that_is_killed_again_and_again_ends_with_the_same_bytes(
    folder: Path, tokenizer: Tokenizer, tmp_path: Path, small_shards: None
) -> None:
    kill_at_random_moments(folder, tokenizer, tmp_path, times=3)


@pytest.mark.slow
def test_an_encode_survives_forty_kills(folder: Path, tokenizer: Tokenizer, tmp_path: Path, small_shards: None) -> None:
    kill_at_random_moments(folder, tokenizer, tmp_path, times=40)


def test_an_index_that_is_damaged_or_gone_is_made_again(folder: Path, tokenizer: Tokenizer, tmp_path: Path) -> None:
    first = encode(folder, tokenizer, tmp_path / "stores")
    (tmp_path / "stores" / FILE).write_bytes(b"no database at all" * 100)
    (folder / "new.txt").write_text("A new story.")
    second = encode(folder, tokenizer, tmp_path / "stores")
    (tmp_path / "stores" / FILE).unlink()
    (folder / "new.txt").unlink()
    assert encode(folder, tokenizer, tmp_path / "stores") == first != second


def test_text_that_changes_after_the_survey_is_refused(
    folder: Path, tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = encoding.plan_shards

    def meddle(*args: object) -> object:
        plan = original(*args)  # type: ignore[arg-type]
        path = folder / "0150.txt"
        path.write_text(path.read_text().replace("Story", "Storm"))
        return plan

    monkeypatch.setattr(encoding, "plan_shards", meddle)
    with pytest.raises(UserError, match=r"0150\.txt changed while it was read"):
        encode(folder, tokenizer, tmp_path / "stores")
    assert stores_in(tmp_path / "stores") == []


def test_ids_of_an_npz_stand_in_the_store_as_they_are(shared: Path, tmp_path: Path) -> None:
    gpt2 = load_tokenizer(shared / "data" / "vocab")
    ids = [int(i) for i in np.random.default_rng(0).integers(0, 50_000, 3000)]
    (tmp_path / "corpus").mkdir()
    np.savez_compressed(tmp_path / "corpus" / "a.npz", np.array([*ids[:2000], 50256, *ids[2000:]]))
    store = open_store(encode(tmp_path / "corpus", gpt2, tmp_path / "stores"))
    found = {}
    for row in store.documents().to_pylist():
        tokens = np.empty(row["n_tokens"], dtype=np.int64)
        store.stream(row["split"]).read(row["token_offset"], len(tokens), tokens)
        found[row["split"], row["n_tokens"]] = tokens.tolist()
    assert (
        found["train", max(n for split, n in found if split == "train")][:-1]
        == ids[: len(found["train", max(n for split, n in found if split == "train")]) - 1]
    )


def test_ids_that_are_not_in_the_vocabulary_are_refused_with_both_numbers(tokenizer: Tokenizer, tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", np.array([1, 2, 40_000]))
    with pytest.raises(UserError, match=r"holds the id 40,000, but the vocabulary has 300 entries"):
        encode(tmp_path / "a.npz", tokenizer, tmp_path / "stores")


def test_a_separate_validation_source_is_held_out_whole_and_alone(folder: Path, tokenizer: Tokenizer, tmp_path: Path) -> None:
    (tmp_path / "held.txt").write_text("Held out.<|endoftext|>Story 0.\n")
    chosen = DataSettings(source=str(folder), validation_source=[str(tmp_path / "held.txt")])
    store = open_store(encode_store(find_files(chosen), chosen, tokenizer, tmp_path / "stores"))
    rows = store.documents().to_pylist()
    assert [row["source"] for row in rows if row["split"] == "validation"] == ["held.txt"] * 2
    assert len(rows) == 301  # one story stands in both and is held out


@settings(max_examples=20, deadline=None)
@given(st.lists(st.text(st.sampled_from("ab é三\n\t'"), max_size=60), min_size=1, max_size=12), st.integers(20, 200))
def test_every_store_gives_back_its_text(
    tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory, texts: list[str], shard_bytes: int
) -> None:
    tmp_path = tmp_path_factory.mktemp("round")
    (tmp_path / "a.txt").write_text("x<|endoftext|>" + "<|endoftext|>".join(texts), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shard_plan, "SHARD_BYTES", shard_bytes)
        store = open_store(encode(tmp_path / "a.txt", tokenizer, tmp_path / "stores"))
    for row in store.documents().to_pylist():
        tokens = np.empty(row["n_tokens"], dtype=np.int64)
        store.stream(row["split"]).read(row["token_offset"], len(tokens), tokens)
        assert any(tokenizer.decode(tokens[:-1].tolist()) in text for text in ["x", *texts])
        assert tokens[-1] == tokenizer.end_of_text
    kept = {text for text in ["x", *texts] if text.strip()}
    whole = {row["n_bytes"] for row in store.documents().to_pylist()}
    assert sum(whole) <= sum(len(text.encode()) for text in kept)


def test_the_number_of_threads_changes_nothing(folder: Path, tokenizer: Tokenizer, tmp_path: Path, small_shards: None) -> None:
    vocabulary = tokenizer.save(tmp_path / "vocabulary")
    for threads in ("1", "2", "5"):
        command = [sys.executable, "-c", ENCODE, str(folder), str(vocabulary), str(tmp_path / threads)]
        subprocess.run(command, env={**os.environ, "RAYON_NUM_THREADS": threads}, check=True, capture_output=True)
    first, *others = (content(stores_in(tmp_path / threads)[0]) for threads in ("1", "2", "5"))
    assert all(other == first for other in others)
