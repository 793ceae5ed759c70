"""A corpus becomes a token store: the same bytes every time, whole or not at all."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from configs.errors import UserError
from configs.schema import DataSettings
from gpt2core.store import shard_plan, writer
from gpt2core.store.contracts import ContractError
from gpt2core.store.encoding import encode_store
from gpt2core.store.index import FILE
from gpt2core.store.manifest import ROW_TOKENS
from gpt2core.store.token_store import TokenStore, open_store, token_pages
from gpt2core.text.documents import find_files, read_documents
from gpt2core.text.tokenizer import Tokenizer, load_tokenizer, train_tokenizer

TOPICS = DataSettings()
ENCODE = """
import sys
from pathlib import Path
from configs.schema import DataSettings
from gpt2core.text.documents import find_files
from gpt2core.store.encoding import encode_store
from gpt2core.text.tokenizer import load_tokenizer
settings = DataSettings(source=sys.argv[1])
print("ready", flush=True)
print(encode_store(find_files(settings), settings, load_tokenizer(sys.argv[2]), Path(sys.argv[3])).name)
"""


def encode(source: str | Path, tokenizer: Tokenizer, stores: Path, validation: float = 0.1) -> Path:
    settings = DataSettings(source=[str(source)], validation=validation)
    return encode_store(find_files(settings), settings, tokenizer, stores)


def stores_in(folder: Path) -> list[Path]:
    """What is there beside the index."""
    return [path for path in folder.iterdir() if not path.name.startswith(FILE)]


def content(store: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in store.iterdir()}


def ids_of(store: TokenStore, split: str) -> np.ndarray:
    """Token ids as pyarrow reads them, padding and all."""
    names = sorted(name for name in store.manifest.files if name.startswith(f"tokens-{split}-"))
    rows = [row for name in names for row in pq.read_table(store.path / name)["tokens"].to_pylist()]
    return np.frombuffer(b"".join(rows), store.manifest.dtype)


@pytest.fixture
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shard_plan, "SHARD_BYTES", 50_000)
    monkeypatch.setattr(writer, "GROUP_ROWS", 10)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """300 files, two of them alike and one empty."""
    root = tmp_path / "corpus"
    root.mkdir()
    for number in range(300):
        (root / f"{number:03}.txt").write_text(f"Story {number}.\n" + "And so on. " * (number % 40))
    (root / "again.txt").write_text("Story 7.\n" + "And so on. " * 7)
    (root / "empty.txt").write_text("\n")
    return root


def test_pyarrow_reads_the_ids_of_the_documents_with_end_of_text_between(store: TokenStore, tokenizer: Tokenizer) -> None:
    for split in ("train", "validation"):
        counts, ids = store.manifest.counts[split], ids_of(store, split)
        assert len(ids) - counts.tokens < store.manifest.row_tokens
        assert set(ids[counts.tokens :].tolist()) <= {tokenizer.end_of_text}
        assert (ids[: counts.tokens] == tokenizer.end_of_text).sum() == counts.documents


def test_every_row_of_documents_says_where_its_text_is(store: TokenStore, tokenizer: Tokenizer) -> None:
    rows = store.documents().to_pylist()
    assert [row["doc_id"] for row in rows] == list(range(78))
    for row in rows:
        ids = np.empty(row["n_tokens"], dtype=np.int64)
        store.stream(row["split"]).read(row["token_offset"], len(ids), ids)
        text = tokenizer.decode(ids[:-1].tolist()).encode()
        assert (hashlib.sha256(text).hexdigest(), len(text)) == (row["sha256"], row["n_bytes"])
        assert ids[-1] == tokenizer.end_of_text


def test_whole_documents_have_the_ids_that_the_tokenizer_gives(store: TokenStore, tokenizer: Tokenizer) -> None:
    rows = {row["sha256"]: row for row in store.documents().to_pylist()}
    found = 0
    for document in read_documents(find_files(TOPICS), TOPICS):
        row = rows.get(hashlib.sha256(document.text.encode()).hexdigest())
        if row:
            ids = np.empty(row["n_tokens"], dtype=np.int64)
            store.stream(row["split"]).read(row["token_offset"], len(ids), ids)
            assert ids.tolist() == [*tokenizer.encode(document.text), tokenizer.end_of_text]
            found += 1
    assert found == 79  # two of them alike


def test_the_manifest_counts_what_is_there(store: TokenStore) -> None:
    rows = store.documents().to_pylist()
    for split, counts in store.manifest.counts.items():
        own = [row for row in rows if row["split"] == split]
        assert counts.documents == len(own)
        assert counts.bytes == sum(row["n_bytes"] for row in own)
        assert counts.tokens == sum(row["n_tokens"] for row in own) == len(store.stream(split))
    assert store.manifest.dropped == {"empty": 0, "duplicate": 1}


def test_the_store_is_hardly_larger_than_raw_tokens(shared: Path, tmp_path: Path) -> None:
    source = shared / "data" / "text" / "tinyshakespeare.txt"
    store = encode(source, load_tokenizer(shared / "data" / "vocab"), tmp_path)
    tokens = sum(counts.tokens for counts in open_store(store).manifest.counts.values())
    assert sum(path.stat().st_size for path in store.iterdir()) < 2 * tokens * 1.02


def test_the_same_corpus_gives_the_same_bytes_elsewhere_and_with_one_thread(
    folder: Path, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    first = encode(folder, tokenizer, tmp_path / "a")
    moved = folder.rename(tmp_path / "moved")
    command = [sys.executable, "-c", ENCODE, str(moved), str(tokenizer.save(tmp_path / "vocabulary")), str(tmp_path / "b")]
    environment = {**os.environ, "TOKENIZERS_PARALLELISM": "false"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["ready", first.name]
    assert content(tmp_path / "b" / first.name) == content(first)


def test_shards_are_one_stream(folder: Path, tokenizer: Tokenizer, tmp_path: Path, small_shards: None) -> None:
    whole = open_store(encode("builtin:python-topics", tokenizer, tmp_path))
    names = [name for name in whole.manifest.files if name.startswith("tokens-train-")]
    assert len(names) > 5
    assert max(pq.read_metadata(whole.path / name).num_row_groups for name in names) > 5
    stream = whole.stream("train")
    tokens = np.empty(len(stream), dtype=np.int64)
    stream.read(0, len(stream), tokens)
    for start in range(0, len(stream) - 5000, 997):
        window = np.empty(5000, dtype=np.int64)
        stream.read(start, 5000, window)
        assert np.array_equal(window, tokens[start : start + 5000])


def test_a_row_group_of_full_size_is_one_page(tmp_path: Path) -> None:
    tokens = np.random.default_rng(0).integers(0, 50_257, 2 * writer.GROUP_ROWS * ROW_TOKENS + 7).astype("<u2")
    shard = writer.TokenShard(tmp_path / "tokens.parquet", tokens.dtype)
    shard.append(tokens)
    assert shard.close(padding=0) == len(tokens)
    pages = token_pages(tmp_path / "tokens.parquet", tokens.dtype, ROW_TOKENS)
    assert [len(page) // ROW_TOKENS for page in pages] == [writer.GROUP_ROWS, writer.GROUP_ROWS, 1]
    assert np.array_equal(np.concatenate(pages)[: len(tokens)], tokens)


def test_shards_change_nothing_in_the_stream(
    store: TokenStore, tokenizer: Tokenizer, tmp_path: Path, small_shards: None
) -> None:
    sharded = open_store(encode("builtin:python-topics", tokenizer, tmp_path))
    assert sharded.documents().equals(store.documents())
    for split in ("train", "validation"):
        one, many = (np.empty(len(s.stream(split)), dtype=np.int64) for s in (store, sharded))
        store.stream(split).read(0, len(one), one)
        sharded.stream(split).read(0, len(many), many)
        assert np.array_equal(one, many)


def test_a_large_vocabulary_is_stored_in_four_bytes(golden: Path, tmp_path: Path) -> None:
    entries = json.loads((golden / "openai-tiny" / "models" / "tiny" / "encoder.json").read_text(encoding="utf-8"))
    entries = {**entries, "<|endoftext|>": 70_000}
    (tmp_path / "encoder.json").write_text(json.dumps(entries), encoding="utf-8")
    (tmp_path / "vocab.bpe").write_text("#version: 0.2\n")
    wide = load_tokenizer(tmp_path)
    store = open_store(encode("builtin:python-topics", wide, tmp_path / "stores"))
    assert (wide.n_vocab, store.manifest.dtype) == (70_001, "<u4")
    ids = ids_of(store, "train")
    assert (ids == 70_000).sum() >= store.manifest.counts["train"].documents
    assert len(pq.read_table(store.path / "tokens-train-00000.parquet")["tokens"][0].as_py()) == 4 * store.manifest.row_tokens


def test_end_of_text_written_in_the_text_never_becomes_ordinary_tokens(tokenizer: Tokenizer, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one<|endoftext|>two<|endoftext|>" + "three " * 100)
    store = open_store(encode(tmp_path / "a.txt", tokenizer, tmp_path / "stores"))
    rows = store.documents().to_pylist()
    assert {row["n_bytes"] for row in rows if row["n_bytes"] < 10} == {3}
    assert "<" not in "".join(tokenizer.decode(ids_of(store, split).tolist()) for split in ("train", "validation")).replace(
        "<|endoftext|>", ""
    )


def test_duplicates_and_empty_documents_are_left_out_and_counted(folder: Path, tokenizer: Tokenizer, tmp_path: Path) -> None:
    store = open_store(encode(folder, tokenizer, tmp_path / "stores"))
    assert store.manifest.dropped == {"empty": 1, "duplicate": 1}
    assert store.documents().num_rows == 300


def test_a_store_that_is_there_is_returned_at_once(folder: Path, tokenizer: Tokenizer, tmp_path: Path) -> None:
    settings = DataSettings(source=[str(folder)])
    heard: list[tuple[int, int]] = []
    files = find_files(settings)
    first = encode_store(files, settings, tokenizer, tmp_path, lambda stage, done, total: heard.append((done, total)))
    written = {path.name: path.stat().st_mtime_ns for path in first.iterdir()}
    assert heard[-1][0] == heard[-1][1] > 0
    assert encode_store(files, settings, tokenizer, tmp_path, lambda *_: pytest.fail("encoded again")) == first
    assert {path.name: path.stat().st_mtime_ns for path in first.iterdir()} == written


def test_other_text_another_vocabulary_or_another_split_is_another_store(
    folder: Path, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    names = [encode(folder, tokenizer, tmp_path).name, encode(folder, tokenizer, tmp_path, validation=0.2).name]
    names.append(encode(folder, train_tokenizer(["abab"], 258), tmp_path).name)
    (folder / "000.txt").write_text("Another story.")
    names.append(encode(folder, tokenizer, tmp_path).name)
    assert len(set(names)) == 4


def test_a_damaged_store_is_made_again(folder: Path, tokenizer: Tokenizer, tmp_path: Path) -> None:
    store = encode(folder, tokenizer, tmp_path / "stores")
    before = content(store)
    (store / "documents-00000.parquet").write_bytes(b"damaged")
    assert encode(folder, tokenizer, tmp_path / "stores") == store
    assert content(store) == before


def test_two_runs_at_once_make_one_store(folder: Path, tokenizer: Tokenizer, tmp_path: Path) -> None:
    with ThreadPoolExecutor(2) as pool:
        stores = list(pool.map(lambda _: encode(folder, tokenizer, tmp_path / "stores"), range(4)))
    assert len(set(stores)) == 1
    assert stores_in(tmp_path / "stores") == [open_store(stores[0]).path]


def test_a_killed_encode_is_done_over_and_ends_with_the_same_bytes(tokenizer: Tokenizer, shared: Path, tmp_path: Path) -> None:
    source = shared / "data" / "text" / "wikitext-2.valid.txt"
    vocabulary = tokenizer.save(tmp_path / "vocabulary")
    expected = encode(source, tokenizer, tmp_path / "undisturbed")
    command = [sys.executable, "-c", ENCODE, str(source), str(vocabulary), str(tmp_path / "killed")]
    unfinished = tmp_path / "killed" / f"{expected.name}.tmp"
    for files in (0, 2):
        with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
            while process.poll() is None and (not unfinished.exists() or len(list(unfinished.iterdir())) < files):
                time.sleep(0.001)
            process.send_signal(signal.SIGKILL)
        assert process.returncode == -signal.SIGKILL
        assert [path.name for path in stores_in(tmp_path / "killed")] == [unfinished.name]
    again = encode(source, tokenizer, tmp_path / "killed")
    assert content(again) == content(expected)
    assert stores_in(tmp_path / "killed") == [again]


def test_an_encode_killed_before_its_last_rename_is_done_over(folder: Path, tokenizer: Tokenizer, tmp_path: Path) -> None:
    store = encode(folder, tokenizer, tmp_path / "stores")
    expected = content(store)
    store.rename(store.with_name(store.name + ".tmp"))
    assert content(encode(folder, tokenizer, tmp_path / "stores")) == expected
    assert stores_in(tmp_path / "stores") == [store]


def test_bad_text_is_one_sentence_and_leaves_nothing_behind(folder: Path, tokenizer: Tokenizer, tmp_path: Path) -> None:
    (folder / "bad.txt").write_bytes(b"caf\xe9")
    with pytest.raises(UserError, match=r"bad\.txt is not UTF-8: byte 3"):
        encode(folder, tokenizer, tmp_path / "stores")
    assert stores_in(tmp_path / "stores") == []


def test_a_corpus_without_text_leaves_nothing_behind(tokenizer: Tokenizer, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("\n")
    with pytest.raises(UserError, match="There is no text"):
        encode(tmp_path / "a.txt", tokenizer, tmp_path / "stores")
    assert stores_in(tmp_path / "stores") == []


def test_a_store_that_breaks_its_contract_is_not_published(folder: Path, tmp_path: Path) -> None:
    lying = train_tokenizer(["abab"], 258)
    lying.n_vocab = 100
    with pytest.raises(ContractError, match=r"tokens-train-00000\.parquet, row 0: tokens is 257 but ids must be below 100"):
        encode(folder, lying, tmp_path / "stores")
    assert stores_in(tmp_path / "stores") == []


def test_a_full_disk_names_what_is_needed_and_leaves_nothing_behind(tokenizer: Tokenizer, small_disk: Path) -> None:
    with pytest.raises(UserError, match=r"The disk is full at .*small: the token store needs about 1 MiB"):
        encode("builtin:python-topics", tokenizer, small_disk)
    assert stores_in(small_disk) == []


def test_a_folder_that_cannot_be_written_is_named(tokenizer: Tokenizer, tmp_path: Path, without_rights: None) -> None:
    with pytest.raises(UserError, match=r"stores cannot be written \(Permission denied\): correct its permissions"):
        encode("builtin:python-topics", tokenizer, tmp_path / "stores")
