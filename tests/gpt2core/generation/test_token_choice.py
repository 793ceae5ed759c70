"""Filters beside plain formulas and brute force, with ties; draws beside their probabilities."""

import math

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor

from gpt2core.generation.token_choice import (
    FEW,
    SeenNgrams,
    TokenChoice,
    keep_min_p,
    keep_top_k,
    keep_top_p,
    penalise_repetition,
)

LOGITS = st.lists(st.integers(-12, 12).map(lambda quarter: quarter / 4), min_size=1, max_size=12)  # ties are frequent


def kept(logits: Tensor) -> list[int]:
    return [i for i, value in enumerate(logits.tolist()) if value > -math.inf]


@given(LOGITS, st.integers(0, 14))
def test_top_k_keeps_what_is_not_below_the_kth_largest(values: list[float], k: int) -> None:
    smallest = sorted(values, reverse=True)[min(k, len(values)) - 1] if k else -math.inf
    found = keep_top_k(torch.tensor(values), k)
    assert kept(found) == [i for i, value in enumerate(values) if value >= smallest]
    assert all(found[i] == values[i] for i in kept(found))


@given(LOGITS, st.floats(0, 1))
def test_top_p_keeps_the_likeliest_that_reach_p_and_their_equals(values: list[float], p: float) -> None:
    total = sum(map(math.exp, values))
    before, smallest = 0.0, -math.inf
    for value in sorted(values, reverse=True):
        assume(abs(before - p) > 1e-5 or before == p == 0)  # nearer than this, rounding decides
        if before >= p > 0:
            break
        before, smallest = before + math.exp(value) / total, value
    found = keep_top_p(torch.tensor(values), p)
    assert kept(found) == [i for i, value in enumerate(values) if value >= smallest]
    assert all(found[i] == values[i] for i in kept(found))


def test_the_token_that_crosses_p_stays() -> None:
    logits = torch.tensor([0.5, 0.25, 0.15, 0.1]).log()
    assert [kept(keep_top_p(logits, p)) for p in (0.01, 0.49, 0.51, 0.74, 0.76, 0.95, 1.0, 0.0)] == [
        [0],
        [0],
        [0, 1],
        [0, 1],
        [0, 1, 2],
        [0, 1, 2, 3],
        [0, 1, 2, 3],
        [0, 1, 2, 3],
    ]


def test_top_k_comes_first_and_top_p_counts_what_it_left() -> None:
    logits = torch.tensor([[0.4, 0.3, 0.2, 0.1]]).log().repeat(4000, 1)
    uniform = torch.linspace(0, 1, 4001)[:-1]
    drawn = TokenChoice(top_k=2, top_p=0.5).choose(logits, uniform)
    assert drawn.unique().tolist() == [0]  # 0.4 of 0.7 is more than half; of the whole it would not be
    assert TokenChoice(top_p=0.5).choose(logits, uniform).unique().tolist() == [0, 1]


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_tokens_are_drawn_as_often_as_their_probability_says(temperature: float) -> None:
    logits = torch.tensor([2.0, -1.0, 0.0, -torch.inf, 1.0])
    uniforms = torch.from_numpy(np.random.default_rng(3).random(20_000, np.float32))
    drawn = TokenChoice(temperature).choose(logits.expand(20_000, -1), uniforms)
    shares = torch.bincount(drawn, minlength=5) / 20_000
    expected = (logits.double() / temperature).softmax(0)
    assert shares[3] == 0
    assert ((shares - expected).abs() < 4 * (expected * (1 - expected) / 20_000).sqrt() + 1e-9).all()


def test_no_random_number_draws_a_token_of_probability_zero() -> None:
    logits = torch.tensor([-torch.inf, 0.0, -torch.inf, 0.3, -torch.inf])
    extremes = torch.tensor([0.0, 2.0**-24, 0.5, 1 - 2.0**-23, 1 - 2.0**-24])
    assert TokenChoice().choose(logits.expand(5, -1), extremes).tolist() == [1, 1, 3, 3, 3]


def test_a_tiny_temperature_takes_the_likeliest_and_a_huge_one_any() -> None:
    logits = torch.tensor([[3.0, 3.1, -2.0, 2.9]]).repeat(400, 1)
    uniform = torch.linspace(0, 1, 401)[:-1]
    assert TokenChoice(1e-300).choose(logits, uniform).unique().tolist() == [1]
    assert torch.bincount(TokenChoice(1e30).choose(logits, uniform)).tolist() == [100] * 4


@given(LOGITS, st.floats(0, 1))
def test_min_p_keeps_what_is_that_fraction_as_likely_as_the_likeliest(values: list[float], p: float) -> None:
    ratios = [math.exp(value - max(values)) for value in values]
    assume(all(abs(ratio - p) > 1e-6 for ratio in ratios if ratio < 1))  # nearer than this, rounding decides
    assert kept(keep_min_p(torch.tensor(values), p)) == [i for i, ratio in enumerate(ratios) if ratio >= p]


@pytest.mark.parametrize("p", [0.2, 0.9, 0.999])
def test_top_p_of_a_flat_distribution_looks_beyond_the_few_likeliest(p: float) -> None:
    logits = torch.randn(20 * FEW, generator=torch.Generator().manual_seed(0)) * 0.1
    ordered, order = logits.double().softmax(0).sort(descending=True)
    expected = order[: int((ordered.cumsum(0) - ordered < p).sum())]
    assert len(expected) > FEW
    assert abs(len(set(kept(keep_top_p(logits, p))) ^ set(expected.tolist()))) <= 2  # float32 sums decide about the last one


@given(st.lists(LOGITS.filter(lambda row: len(row) == 4) | st.just([0.0, 1.0, 1.0, -1.0]), min_size=1, max_size=5))
def test_a_row_is_filtered_as_it_would_be_alone(rows: list[list[float]]) -> None:
    logits = torch.tensor(rows)
    for name, keep in {"k": lambda x: keep_top_k(x, 2), "p": lambda x: keep_top_p(x, 0.6)}.items():
        assert torch.equal(keep(logits), torch.cat([keep(row[None]) for row in logits])), name


@given(LOGITS, st.sets(st.integers(0, 11)), st.floats(0.5, 2))
def test_repetition_is_penalised_towards_the_unlikely(values: list[float], seen: set[int], penalty: float) -> None:
    mask = torch.tensor([i in seen for i in range(len(values))])
    found = penalise_repetition(torch.tensor(values, dtype=torch.float64), mask, penalty).tolist()
    expected = [v if i not in seen else v / penalty if v > 0 else v * penalty for i, v in enumerate(values)]
    assert found == pytest.approx(expected)


@given(st.lists(st.integers(0, 3), max_size=30), st.integers(1, 4))
def test_forbidden_tokens_are_those_that_would_repeat_an_ngram(tokens: list[int], size: int) -> None:
    seen = SeenNgrams(size)
    for token in tokens:
        seen.add(token)
    ngrams = {tuple(tokens[i : i + size]) for i in range(len(tokens) - size + 1)}
    end = tokens[len(tokens) - size + 1 :] if len(tokens) >= size - 1 else None
    expected = {t for t in range(4) if end is not None and (*end, t) in ngrams}
    assert set(seen.forbidden()) == expected
