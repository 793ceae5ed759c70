"""The report counts what another way of counting finds.

Also tests `gpt2core.text.scripts`.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from configs.schema import DataSettings
from gpt2core.store.encoding import encode_store
from gpt2core.store.report import near_duplicates, overlap, report_on
from gpt2core.store.token_store import TokenStore, TokenStream, open_store
from gpt2core.text.documents import find_files
from gpt2core.text.scripts import count_scripts
from gpt2core.text.tokenizer import Tokenizer

BLOCKS = ("ASCII", "Latin", "Greek", "Hebrew and Armenian", "Arabic", "Indic", "South-East Asian", "Kana and CJK marks")
BLOCKS += ("Hangul", "Han", "symbols")


def store_of(texts: list[str], tokenizer: Tokenizer, tmp_path: Path) -> TokenStore:
    (tmp_path / "a.txt").write_text("<|endoftext|>".join(texts), encoding="utf-8")
    settings = DataSettings(source=str(tmp_path / "a.txt"))
    return open_store(encode_store(find_files(settings), settings, tokenizer, tmp_path / "stores"))


def test_the_figures_of_the_built_in_corpus(store: TokenStore) -> None:
    report, rows = report_on(store, n_ctx=500), store.documents().to_pylist()
    assert sum(report.length_counts) == len(rows) == sum(report.documents.values())
    assert report.shorter_than_block == sum(row["n_tokens"] < 500 for row in rows)
    assert report.tokens_per_byte == sum(row["n_tokens"] for row in rows) / sum(row["n_bytes"] for row in rows)
    assert report.dropped == {"empty": 0, "duplicate": 1}
    assert (report.shared_hashes, report.decode_errors) == (0, 0)
    for edge, count in zip(report.length_edges, report.length_counts, strict=True):
        assert count == sum(edge <= row["n_tokens"] < 2 * edge for row in rows)


def test_longest_line_and_scripts_are_those_of_the_text(tokenizer: Tokenizer, tmp_path: Path) -> None:
    texts = ["short\n" + "x" * 70_000 + " y\nshort", "Здравствуй 三国 😀" * 9]
    report = report_on(store_of(texts, tokenizer, tmp_path), n_ctx=16)
    assert report.longest_line == 70_002
    assert report.scripts == {"ASCII": 70_014 + 18, "Cyrillic": 90, "Han": 18, "emoji": 9}


@pytest.mark.parametrize(
    ("character", "block"),
    list(zip("aéλשشअกか한𠀀—", BLOCKS, strict=True)),
)
def test_a_character_belongs_to_its_block(character: str, block: str) -> None:
    assert count_scripts(character + "z") == ({"ASCII": 2} if block == "ASCII" else {block: 1, "ASCII": 1})


def test_near_duplicates_are_found_and_others_are_not(tokenizer: Tokenizer, tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    texts = [" ".join(f"word{number}" for number in draw.integers(0, 10_000, 300)) for _ in range(30)]
    twins = [text + " The end." for text in texts[:5]]
    assert near_duplicates(store_of([*texts, *twins], tokenizer, tmp_path)) == (35, 5)


def test_overlapping_passages_are_counted_as_by_comparing_all_of_them() -> None:
    draw = np.random.default_rng(0)
    train, held = (draw.integers(0, 1000, 5000).astype("<u2") for _ in range(2))
    held[1000:1100] = train[400:500]
    probes, share = overlap(TokenStream([train[:300], train[300:]]), TokenStream([held]))
    everything = {bytes(train[start : start + 13]) for start in range(5000 - 12)}
    wanted = {bytes(held[start : start + 13]) for start in range(5000 - 12)}
    assert (probes, round(share * probes)) == (len(wanted), len(wanted & everything)) == (4988, 88)
