"""Figures of generated text, worked out by hand."""

import pytest

from gpt2core.evaluation.sample_quality import distinct, loops, repetition, sample_quality


def test_distinct_counts_different_ngrams_over_all_ngrams() -> None:
    samples = [[1, 2, 1, 2], [1, 2, 3]]
    assert distinct(samples, 1) == pytest.approx(3 / 7)
    assert distinct(samples, 2) == pytest.approx(3 / 5)  # 12 21 12 | 12 23
    assert distinct(samples, 3) == pytest.approx(3 / 3)  # 121 212 | 123
    assert distinct(samples, 5) == 0.0


def test_repetition_counts_fourgrams_seen_before_in_the_same_sample() -> None:
    assert repetition([1, 2, 3, 4, 1, 2, 3, 4]) == pytest.approx(1 / 5)
    assert repetition([7] * 8) == pytest.approx(4 / 5)
    assert repetition(list(range(9))) == 0.0
    assert repetition([1, 2]) == 0.0


@pytest.mark.parametrize(
    ("sample", "is_loop"),
    [
        ([1, 2, 3, *[9] * 12], True),
        ([1, 2, 3, *[9] * 11], False),
        ([5, *[1, 2, 3, 4, 5] * 3], True),
        ([*[1, 2, 3, 4, 5] * 2, 1, 2, 3, 4], False),
        ([*[1, 2, 3, 4, 5] * 3, 6], False),
        ([3, 4, 5, *[1, 2, 3, 4, 5] * 3, 1, 2], True),
        (list(range(40)), False),
        ([], False),
    ],
)
def test_a_loop_is_an_end_that_stands_there_three_times(sample: list[int], is_loop: bool) -> None:
    assert loops(sample) == is_loop


def test_the_figures_are_means_over_the_samples() -> None:
    found = sample_quality([[1, 2, 3, 4, 1, 2, 3, 4], [9] * 12, []], [True, False, True])
    assert found is not None
    assert found.repetition == pytest.approx((1 / 5 + 8 / 9 + 0) / 3)
    assert found.loops == pytest.approx(1 / 3)
    assert found.length == pytest.approx(20 / 3)
    assert found.ended == pytest.approx(2 / 3)
    assert sample_quality([], []) is None
