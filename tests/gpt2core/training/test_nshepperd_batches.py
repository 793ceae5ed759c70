"""Batches as nshepperd/gpt-2 draws them, beside a plain retelling of its rules."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from tiny import SMALLEST

from configs.errors import UserError
from configs.schema import DataSettings, RunConfig
from gpt2core.store.encoding import encode_store
from gpt2core.store.token_store import TokenStore, TokenStream, open_store
from gpt2core.text.documents import find_files
from gpt2core.text.tokenizer import Tokenizer, load_tokenizer, train_tokenizer
from gpt2core.training import nshepperd_batches
from gpt2core.training.nshepperd_batches import Chunks, CompatBatches, chunks_of

MARK = "<|endoftext|>"


def of_lengths(*lengths: int) -> Chunks:
    """Each token is its own place."""
    tokens = np.arange(sum(lengths), dtype="<u4")
    return Chunks(TokenStream(np.split(tokens, np.cumsum(lengths)[:-1])), np.array(lengths))


def store_of(texts: dict[str, str], tokenizer: Tokenizer, folder: Path) -> TokenStore:
    """Everything is training text but a file of its own."""
    (folder / "in").mkdir()
    (folder / "held.txt").write_text("held out")
    for name, text in texts.items():
        (folder / "in" / name).write_text(text, encoding="utf-8")
    settings = DataSettings(source=str(folder / "in"), validation_source=[str(folder / "held.txt")])
    return open_store(encode_store(find_files(settings), settings, tokenizer, folder / "stores"))


def chunk_texts(chunks: Chunks, tokenizer: Tokenizer) -> list[str]:
    tokens = chunks.stream.windows([0], len(chunks.stream))[0]
    return [tokenizer.decode(part.tolist()) for part in np.split(tokens, np.cumsum(chunks.lengths)[:-1])]


def reference_chunks(texts: dict[str, str], combine: int) -> list[str]:
    """The rule of its load_dataset.py, on texts, in sorted order."""
    chunks, raw = [], ""
    for _, text in sorted(texts.items()):
        raw += text
        if len(raw) >= combine:
            chunks.append(raw)
            raw = ""
        else:
            raw += MARK
    return [*chunks, raw] if raw else chunks


@pytest.mark.parametrize("combine", [1, 60, 200, 10_000])
def test_chunks_hold_the_text_that_the_rule_gives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, combine: int) -> None:
    monkeypatch.setattr(nshepperd_batches, "COMBINE", combine)
    tokenizer = train_tokenizer([""], 257)
    texts = {f"{number}.txt": f"Número {number}: 红楼梦 " * (number % 4 + 1) for number in range(12)}
    texts["5.txt"] = f"one{MARK}two{MARK}three"
    chunks = chunks_of(store_of(texts, tokenizer, tmp_path), tokenizer)
    assert chunk_texts(chunks, tokenizer) == reference_chunks(texts, combine)


def test_the_mark_is_the_seven_ordinary_ids(shared: Path, tmp_path: Path) -> None:
    gpt2 = load_tokenizer(shared / "data" / "vocab")
    chunks = chunks_of(store_of({"a.txt": "Hello world", "b.txt": "Hello"}, gpt2, tmp_path), gpt2)
    mark = [27, 91, 437, 1659, 5239, 91, 29]
    assert chunks.stream.windows([0], len(chunks.stream))[0].tolist() == [15496, 995, *mark, 15496, *mark]


def test_each_array_of_ids_is_a_chunk(tokenizer: Tokenizer, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "held.txt").write_text("held out")
    np.savez(tmp_path / "in" / "a.npz", np.arange(5), np.arange(7, 20))
    settings = DataSettings(source=str(tmp_path / "in"), validation_source=[str(tmp_path / "held.txt")])
    chunks = chunks_of(open_store(encode_store(find_files(settings), settings, tokenizer, tmp_path / "s")), tokenizer)
    assert chunks.lengths.tolist() == [5, 13]


def test_every_window_within_a_chunk_is_as_likely_as_any_other() -> None:
    batches = CompatBatches(of_lengths(12, 4, 30), 5, 4, seed=3)
    counts = Counter(batches.start(number) for number in range(64_000))
    # The rule: a start anywhere, taken where the chunk's end lies beyond the window's.
    ends = [12] * 12 + [16] * 4 + [46] * 30
    assert sorted(counts) == [start for start in range(46) if ends[start] > start + 5]
    expected = 64_000 / len(counts)
    assert sum((count - expected) ** 2 / expected for count in counts.values()) < len(counts) + 6 * np.sqrt(2 * len(counts))


def test_batches_are_windows_whose_last_token_has_no_target() -> None:
    batches = CompatBatches(of_lengths(12, 30), 5, 4, seed=3)
    inputs, targets = batches.at(7)
    assert inputs[:, 0].tolist() == [batches.start(number) for number in range(28, 32)]
    assert torch.equal(targets[:, :-1], inputs[:, 1:])
    assert (targets[:, -1] == -100).all()


def test_a_batch_depends_on_seed_and_index_alone() -> None:
    first = [CompatBatches(of_lengths(12, 3000), 5, 4, seed=3).at(index)[0] for index in range(50)]
    again = CompatBatches(of_lengths(12, 3000), 5, 4, seed=3)
    assert all(torch.equal(again.at(index)[0], first[index]) for index in (49, 0, 17))
    assert not torch.equal(CompatBatches(of_lengths(12, 3000), 5, 4, seed=4).at(0)[0], first[0])


def test_chunks_without_a_window_are_refused() -> None:
    with pytest.raises(UserError, match="no chunk of more than 30 tokens"):
        CompatBatches(of_lengths(12, 30), 30, 4, seed=0)


def test_documents_cannot_be_masked_where_no_id_separates_them() -> None:
    config = {"model": SMALLEST, "train": {"compat": "nshepperd"}, "data": {"mask_documents": True}}
    with pytest.raises(ValidationError, match="use one of them"):
        RunConfig.model_validate_json(json.dumps(config))
