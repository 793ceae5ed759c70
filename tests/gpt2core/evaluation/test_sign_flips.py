"""The test behind a promotion, against SciPy's, against counting by hand, and what it promises of equal models."""

import math
from itertools import product

import numpy as np
import pytest
from scipy.stats import permutation_test

from gpt2core.evaluation.document_scores import DocumentScores
from gpt2core.evaluation.sign_flips import (
    error_of_attempt,
    fewest_documents,
    paired_gains,
    sign_flip_test,
    subset_means,
)


def scores_of(bits: np.ndarray, n_bytes: np.ndarray) -> DocumentScores:
    """Documents whose loss is so many bits a byte."""
    return DocumentScores(np.arange(len(bits)), bits * n_bytes * math.log(2), n_bytes, n_bytes, n_bytes)


def two_models(documents: int, gain: float, seed: int = 0, noise: float = 0.05) -> tuple[DocumentScores, DocumentScores]:
    """A model, and one that is better by `gain` bits a byte on average; lengths differ from document to document."""
    random = np.random.default_rng(seed)
    n_bytes = random.integers(200, 4000, documents)
    before = random.normal(1.9, 0.3, documents)
    return scores_of(before, n_bytes), scores_of(before - random.normal(gain, noise, documents), n_bytes)


def by_hand(before: DocumentScores, now: DocumentScores, margin: float) -> float:
    """The p-value by trying every combination of signs."""
    bits, weights = paired_gains(before, now)
    beyond = bits - margin * weights
    sums = [np.dot(signs, beyond) for signs in product((-1, 1), repeat=len(beyond))]
    return float(np.mean([total >= beyond.sum() - 1e-9 for total in sums]))


@pytest.mark.parametrize("margin", [0.0, 0.01, 0.03])
@pytest.mark.parametrize("documents", [6, 9])
def test_few_documents_are_tested_exactly(documents: int, margin: float) -> None:
    before, now = two_models(documents, 0.02)
    assert sign_flip_test(before, now, margin).p_value == pytest.approx(by_hand(before, now, margin))


@pytest.mark.parametrize("gain", [-0.01, 0.0, 0.01, 0.02])
def test_many_documents_agree_with_scipy(gain: float) -> None:
    before, now = two_models(60, gain)
    bits, _ = paired_gains(before, now)
    options = {"permutation_type": "samples", "alternative": "greater", "n_resamples": 20_000, "rng": 1}
    expected = permutation_test((bits,), np.sum, **options).pvalue
    assert sign_flip_test(before, now).p_value == pytest.approx(expected, abs=0.015)


@pytest.mark.parametrize("documents", [7, 12, 40])
def test_the_verdict_and_the_interval_never_contradict_one_another(documents: int) -> None:
    for seed in range(20):
        before, now = two_models(documents, 0.02, seed)
        bound = sign_flip_test(before, now).low
        assert sign_flip_test(before, now, margin=bound - 1e-9).is_better
        assert not sign_flip_test(before, now, margin=bound + 1e-9).is_better


def test_the_interval_covers_the_true_gain_as_often_as_it_says() -> None:
    tests = [sign_flip_test(*two_models(20, 0.02, seed), error=0.05) for seed in range(400)]
    assert 340 <= sum(found.low < 0.02 < found.high for found in tests) <= 380  # 90%, four standard deviations either way


def test_two_hundred_promotions_of_equal_models_promote_at_most_one_in_twenty() -> None:
    for documents in (8, 20, 60):
        promoted = sum(sign_flip_test(*two_models(documents, 0.0, seed)).is_better for seed in range(200))
        assert promoted <= 10, (documents, promoted)


def test_attempts_together_spend_no_more_than_the_whole() -> None:
    spent = [error_of_attempt(0.05, attempt) for attempt in range(1, 1000)]
    assert spent[:3] == pytest.approx([0.025, 0.05 / 6, 0.05 / 12])
    assert 0.0499 < sum(spent) < 0.05


def test_a_tie_and_identical_models_are_no_gain() -> None:
    before, _ = two_models(30, 0.0)
    found = sign_flip_test(before, before)
    assert (found.gain, found.p_value, found.is_better) == (0.0, 1.0, False)


@pytest.mark.parametrize("broken", [math.nan, math.inf])
def test_a_loss_that_is_no_number_is_no_gain(broken: float) -> None:
    before, now = two_models(30, 0.1)
    now.nats[4] = broken
    found = sign_flip_test(before, now)
    assert not found.is_better
    assert found.p_value == 1.0
    assert found.needed is None


def test_the_fewest_documents_that_allow_a_verdict() -> None:
    for error in (0.025, 0.05 / 6, 0.05 / 12):
        fewest = fewest_documents(error)
        assert sign_flip_test(*two_models(fewest, 0.2, noise=0.001), error=error).is_better
        assert not sign_flip_test(*two_models(fewest - 1, 0.2, noise=0.001), error=error).is_better


def test_as_many_documents_as_it_asks_for_find_the_gain_four_times_out_of_five() -> None:
    before, now = two_models(4000, 0.01)
    needed = sign_flip_test(before, now).needed
    assert needed is not None
    found = sum(sign_flip_test(*two_models(needed, 0.01, seed)).is_better for seed in range(200))
    assert 135 <= found <= 185


def test_vocabularies_that_score_other_bytes_are_compared_by_rate() -> None:
    bits, n_bytes = np.full(20, 2.0), np.full(20, 1000)
    fewer = n_bytes.copy()
    fewer[0] -= 7  # the first token of a text is not predicted, and this one is longer
    found = sign_flip_test(scores_of(bits, n_bytes), scores_of(bits - 0.1, fewer))
    assert found.gain == pytest.approx(0.1)


def test_only_documents_that_both_have_scored_count() -> None:
    before, now = two_models(30, 0.05)
    now.bytes[3] = 0
    assert sign_flip_test(before, now).documents == 29


def test_random_subsets_are_the_same_for_the_same_seed() -> None:
    bits, weights = paired_gains(*two_models(50, 0.01))
    assert np.array_equal(subset_means(bits, weights, seed=3), subset_means(bits, weights, seed=3))


def test_one_document_says_nothing_about_how_many_are_needed() -> None:
    before, now = two_models(1, gain=0.5)
    assert sign_flip_test(before, now).needed is None
