"""Losses by document and the interval of a difference, against closed formulas and another way of resampling.

Also tests `gpt2core.store.document_stream`.
"""

import math
from pathlib import Path

import numpy as np
import pytest

from configs.errors import UserError
from gpt2core.evaluation.document_scores import DocumentScores, paired_gain


def scores_of(nats: np.ndarray, tokens: np.ndarray, doc_ids: np.ndarray | None = None) -> DocumentScores:
    ids = np.arange(len(nats)) if doc_ids is None else doc_ids
    return DocumentScores(ids, nats.astype(float), tokens, tokens * 4, tokens // 2)


def two_models(documents: int = 200) -> tuple[DocumentScores, DocumentScores]:
    random = np.random.default_rng(1)
    tokens = random.integers(5, 50, documents)
    before = tokens * random.normal(4.0, 1.0, documents)
    return scores_of(before, tokens), scores_of(before - tokens * random.normal(0.3, 0.5, documents), tokens)


def test_the_gain_is_the_difference_of_the_mean_losses() -> None:
    before, now = two_models()
    found = paired_gain(before, now)
    assert found is not None
    assert found.gain == pytest.approx((before.nats.sum() - now.nats.sum()) / before.tokens.sum())
    in_bits = paired_gain(before, now, unit="bytes")
    assert in_bits is not None
    assert in_bits.gain == pytest.approx(found.gain / math.log(2) / 4)


def test_the_interval_is_that_of_a_normal_approximation_where_documents_are_many() -> None:
    before, now = two_models(2000)
    found = paired_gain(before, now)
    assert found is not None
    difference, tokens = before.nats - now.nats, before.tokens
    residual = difference - found.gain * tokens  # delta method for a ratio of sums
    deviation = math.sqrt((residual**2).sum()) / tokens.sum()
    assert found.low == pytest.approx(found.gain - 1.96 * deviation, abs=0.2 * deviation)
    assert found.high == pytest.approx(found.gain + 1.96 * deviation, abs=0.2 * deviation)


def test_the_pairing_takes_out_what_both_models_find_hard() -> None:
    tokens = np.full(50, 10)
    before = np.random.default_rng(0).normal(40, 20, 50)
    found = paired_gain(scores_of(before, tokens), scores_of(before - 1, tokens))
    assert found is not None
    assert found.low == pytest.approx(0.1) == found.high


def test_the_seed_decides_the_interval() -> None:
    before, now = two_models()
    assert paired_gain(before, now, seed=3) == paired_gain(before, now, seed=3)
    assert paired_gain(before, now, seed=3) != paired_gain(before, now, seed=4)


def test_only_documents_that_both_have_seen_count() -> None:
    before, now = two_models()
    some = np.arange(50, 250)  # ids 200 to 249 are unknown to `before`
    shifted = DocumentScores(some, *(np.roll(getattr(now, name), -50) for name in ("nats", "tokens", "bytes", "right")))
    found = paired_gain(before, shifted)
    assert found is not None
    assert found.gain == pytest.approx((before.nats[50:].sum() - now.nats[50:].sum()) / before.tokens[50:].sum())
    assert paired_gain(before, scores_of(np.array([1.0]), np.array([2]))) is None


def test_the_table_comes_back_as_it_was_and_damage_is_named(tmp_path: Path) -> None:
    before, _ = two_models()
    before.save(tmp_path / "scores.parquet")
    again = DocumentScores.load(tmp_path / "scores.parquet")
    for name in ("doc_ids", "nats", "tokens", "bytes", "right"):
        assert np.array_equal(getattr(again, name), getattr(before, name))
    (tmp_path / "scores.parquet").write_bytes(b"PAR1")
    with pytest.raises(UserError, match=r"scores.parquet cannot be read"):
        DocumentScores.load(tmp_path / "scores.parquet")
