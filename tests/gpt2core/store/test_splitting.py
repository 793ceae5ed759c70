"""Held-out text is held out by the document's own hash, or cut off where nobody reads on."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from configs.schema import DataSettings
from gpt2core.store.index import CorpusIndex
from gpt2core.store.shard_plan import plan_of, plan_shards
from gpt2core.text.documents import find_files
from gpt2core.text.tokenizer import train_tokenizer

BYTES = train_tokenizer([""], 257)


class Passage(NamedTuple):
    text: str
    split: str
    sha256: str
    n_bytes: int


def split(texts: list[str], validation: float = 0.1) -> list[Passage]:
    """What a corpus of these documents, in a file each, becomes."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "in").mkdir()
        for number, text in enumerate(texts):
            (folder / "in" / f"{number:05}.jsonl").write_text(json.dumps({"text": text}), encoding="utf-8")
        settings = DataSettings(source=name + "/in", validation=validation)
        with CorpusIndex(None) as index:
            plan = plan_shards(find_files(settings), settings, BYTES, index, folder)
        rows = [row for shard in range(plan.shards) for row in plan_of(folder, shard).to_pylist()]
    return [Passage(texts[row["file"]][row["start"] : row["end"]], row["split"], row["sha256"], row["n_bytes"]) for row in rows]


def held_out_share(passages: list[Passage]) -> float:
    sizes = {name: sum(passage.n_bytes for passage in passages if passage.split == name) for name in ("train", "validation")}
    return sizes["validation"] / sum(sizes.values())


def stories(count: int, length: int = 300) -> list[str]:
    return [f"Story {number}.\n\n" + "And so on. " * (length // 11) for number in range(count)]


def test_documents_of_a_large_corpus_stay_whole() -> None:
    passages = split(stories(2000))
    assert [passage.text for passage in passages] == stories(2000)
    assert 0.08 < held_out_share(passages) < 0.12


def test_a_document_stays_in_its_split_when_others_arrive() -> None:
    before = {passage.sha256: passage.split for passage in split(stories(1000))}
    after = {passage.sha256: passage.split for passage in split(stories(1500)[::-1])}
    assert {sha256: after[sha256] for sha256 in before} == before


def test_the_split_follows_the_documents_hash() -> None:
    for passage in split(stories(300), validation=0.25):
        assert passage.sha256 == hashlib.sha256(passage.text.encode()).hexdigest()
        assert (passage.split == "validation") == (int(passage.sha256[:2], 16) < 64)


def test_the_end_of_a_single_long_document_is_held_out(shared: Path) -> None:
    text = (shared / "data" / "text" / "tinyshakespeare.txt").read_text(encoding="utf-8")
    train, validation = split([text])
    assert (train.split, validation.split) == ("train", "validation")
    assert text.startswith(train.text)
    assert text.endswith(validation.text)
    assert 0.095 < held_out_share([train, validation]) < 0.105


def test_the_cut_leaves_a_paragraph_out(shared: Path) -> None:
    text = (shared / "data" / "text" / "tinyshakespeare.txt").read_text(encoding="utf-8")
    train, validation = split([text])
    gap = text[len(train.text) : -len(validation.text)]
    assert train.text.endswith("\n\n")
    assert gap.endswith("\n\n")
    assert gap.strip()


@pytest.mark.parametrize("border", ["\n", " "])
def test_without_paragraphs_the_cut_falls_between_lines_or_words(border: str) -> None:
    text = border.join(f"word{number}" for number in range(1000))
    train, validation = split([text])
    gap = text[len(train.text) : -len(validation.text)]
    assert train.text.endswith(border)
    assert gap.endswith(border)
    assert validation.text.startswith("word")


def test_a_text_without_any_border_is_cut_all_the_same() -> None:
    train, validation = split(["红" * 1000])
    assert len(validation.text) == 100
    assert len(train.text) < 900


def test_a_document_larger_than_the_validation_part_is_cut_and_the_small_ones_stay_whole() -> None:
    texts = [*stories(1000), "A long story. " * 20_000]
    passages = split(texts)
    assert [passage.text for passage in passages[:1000]] == texts[:1000]
    assert [passage.split for passage in passages[1000:]] == ["train", "validation"]


def test_when_chance_is_unfair_every_document_gives_its_end() -> None:
    texts = ["\n\n".join(f"Paragraph {part} of story {number}." for part in range(200)) for number in range(40)]
    unlucky = [text for text in texts if hashlib.sha256(text.encode()).digest()[0] > 128][:12]
    passages = split(unlucky)
    assert [passage.split for passage in passages] == ["train", "validation"] * 12
    assert 0.08 < held_out_share(passages) < 0.12


@given(st.lists(st.text("ab \n", min_size=1, max_size=80), min_size=1, max_size=20), st.sampled_from([0.01, 0.1, 0.5]))
def test_no_text_stands_on_both_sides_and_none_is_made_up(texts: list[str], validation: float) -> None:
    if not any(text.strip() for text in texts):
        return
    passages = split(texts, validation)
    assert len({passage.text for passage in passages}) == len(passages)
    for passage in passages:
        assert passage.text.strip()
        assert passage.n_bytes == len(passage.text.encode())
        assert any(passage.text in text for text in texts)


def test_the_end_of_a_document_that_also_stands_alone_is_in_the_store_once() -> None:
    long = "\n\n".join(f"Paragraph {number} of a long story." for number in range(12_000))
    end = split([long])[1].text
    passages = split([end, long])
    assert sum(end in passage.text for passage in passages) == 1
