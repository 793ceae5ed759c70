"""Sampling against OpenAI's continuations, plain formulas, and a second way of generating without a cache."""

import math
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor

from configs.errors import UserError
from configs.schema import SampleSettings
from gpt2core.config import GPT2Config
from gpt2core.model import GPT2
from gpt2core.sampling import Draw, generate, generate_text, keep_top_k, keep_top_p
from gpt2core.tokenizer import Tokenizer, load_tokenizer
from gpt2core.weights import load_model

PROMPTS = torch.randint(0, 257, (3, 5), generator=torch.Generator().manual_seed(0))
LOGITS = st.lists(st.integers(-12, 12).map(lambda quarter: quarter / 4), min_size=1, max_size=12)  # ties are frequent


@pytest.fixture(scope="module")
def tiny(golden: Path) -> GPT2:
    """Context 32, 257 tokens."""
    return load_model(golden / "openai-tiny" / "models" / "tiny")


@pytest.fixture(scope="module")
def bytes_tokenizer(golden: Path) -> Tokenizer:
    return load_tokenizer(golden / "openai-tiny" / "models" / "tiny")


def kept(logits: Tensor) -> list[int]:
    return [i for i, value in enumerate(logits.tolist()) if value > -math.inf]


def without_cache(model: GPT2, prompt: Tensor, count: int, choose: Callable[[Tensor], Tensor]) -> Tensor:
    """The same continuation the slow way: all of the window through the model for every token."""
    ids, start = prompt, max(0, prompt.shape[1] - model.config.n_ctx)
    for _ in range(count):
        if ids.shape[1] - start > model.config.n_ctx:
            start = ids.shape[1] - model.config.n_ctx // 2
        with torch.no_grad():
            ids = torch.cat([ids, choose(model(ids[:, start:])[:, -1])[:, None]], 1)
    return ids


@pytest.mark.parametrize(("answer", "length"), [("greedy_len8", 13), ("greedy_len11", 13), ("greedy_from_endoftext_len16", 1)])
def test_greedy_continuations_are_openais(tiny: GPT2, golden: Path, answer: str, length: int) -> None:
    expected = torch.from_numpy(np.load(golden / "openai-tiny" / "tiny-golden.npz")[answer]).long()
    found = generate(tiny, expected[:, :length], expected.shape[1] - length, temperature=0)
    assert torch.equal(found, expected)


@pytest.mark.parametrize(("length", "new"), [(5, 100), (32, 40), (50, 30), (31, 2)])
def test_text_beyond_the_context_goes_on_in_a_sliding_window(tiny: GPT2, length: int, new: int) -> None:
    prompt = torch.randint(0, 257, (2, length), generator=torch.Generator().manual_seed(1))
    found = generate(tiny, prompt, new, temperature=0)
    assert found.shape == (2, length + new)
    assert torch.equal(found, without_cache(tiny, prompt, new, lambda logits: logits.argmax(-1)))


def test_the_shortest_context_generates_too() -> None:
    model = GPT2(GPT2Config(n_vocab=20, n_ctx=1, n_embd=8, n_head=2, n_layer=1)).initialise(0)
    assert generate(model, torch.tensor([[1, 2]]), 5).shape == (1, 7)


def test_the_prompt_stands_unchanged_in_front_and_nothing_new_is_allowed(tiny: GPT2) -> None:
    assert torch.equal(generate(tiny, PROMPTS, 7)[:, :5], PROMPTS)
    assert torch.equal(generate(tiny, PROMPTS, 0), PROMPTS)
    assert generate(tiny, PROMPTS.int(), 1).dtype == torch.int64


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
    drawn = Draw(1.0, top_k=2, top_p=0.5, seed=0).choose(logits, uniform)
    assert drawn.unique().tolist() == [0]  # 0.4 of 0.7 is more than half; of the whole it would not be
    assert Draw(1.0, top_k=0, top_p=0.5, seed=0).choose(logits, uniform).unique().tolist() == [0, 1]


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_tokens_are_drawn_as_often_as_their_probability_says(temperature: float) -> None:
    logits = torch.tensor([2.0, -1.0, 0.0, -torch.inf, 1.0])
    draw = Draw(temperature, top_k=0, top_p=0.0, seed=3)
    drawn = draw.choose(logits.expand(20_000, -1), draw.uniforms(1, 20_000)[0])
    shares = torch.bincount(drawn, minlength=5) / 20_000
    expected = (logits.double() / temperature).softmax(0)
    assert shares[3] == 0
    assert ((shares - expected).abs() < 4 * (expected * (1 - expected) / 20_000).sqrt() + 1e-9).all()


def test_no_random_number_draws_a_token_of_probability_zero() -> None:
    logits = torch.tensor([-torch.inf, 0.0, -torch.inf, 0.3, -torch.inf])
    extremes = torch.tensor([0.0, 2.0**-24, 0.5, 1 - 2.0**-23, 1 - 2.0**-24])
    assert Draw(1.0, 0, 0.0, 0).choose(logits.expand(5, -1), extremes).tolist() == [1, 1, 3, 3, 3]


def test_a_tiny_temperature_takes_the_likeliest_and_a_huge_one_any() -> None:
    logits = torch.tensor([[3.0, 3.1, -2.0, 2.9]]).repeat(400, 1)
    uniform = torch.linspace(0, 1, 401)[:-1]
    assert Draw(1e-300, 0, 0.0, 0).choose(logits, uniform).unique().tolist() == [1]
    assert torch.bincount(Draw(1e30, 0, 0.0, 0).choose(logits, uniform)).tolist() == [100] * 4


def test_a_continuation_does_not_depend_on_the_other_rows(tiny: GPT2) -> None:
    together = generate(tiny, PROMPTS, 40, seed=5)
    others = torch.cat([PROMPTS[:1], PROMPTS[:1].repeat(6, 1)])
    assert torch.equal(generate(tiny, PROMPTS[:1], 40, seed=5), together[:1])
    assert torch.equal(generate(tiny, others, 40, seed=5)[:1], together[:1])
    assert torch.equal(generate(tiny, PROMPTS[:2], 40, seed=5), together[:2])


def test_equal_prompts_in_a_batch_go_on_differently(tiny: GPT2) -> None:
    rows = generate(tiny, PROMPTS[:1].repeat(4, 1), 20, seed=5)
    assert len({tuple(row) for row in rows.tolist()}) == 4


def test_the_same_seed_gives_the_same_text_and_another_seed_another(tiny: GPT2) -> None:
    assert torch.equal(generate(tiny, PROMPTS, 20, seed=1), generate(tiny, PROMPTS, 20, seed=1))
    assert not torch.equal(generate(tiny, PROMPTS, 20, seed=1), generate(tiny, PROMPTS, 20, seed=2))


def test_a_longer_continuation_begins_with_the_shorter_one(tiny: GPT2) -> None:
    assert torch.equal(generate(tiny, PROMPTS, 90, top_k=30, seed=1)[:, :25], generate(tiny, PROMPTS, 20, top_k=30, seed=1))


def test_no_global_random_state_is_touched(tiny: GPT2) -> None:
    before = torch.random.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
    generate(tiny, PROMPTS, 20, seed=1)
    after = torch.random.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
    assert torch.equal(before[0], after[0])
    assert before[1:] == after[1:]


@pytest.mark.parametrize("training", [True, False])
def test_the_model_is_left_in_its_mode_and_dropout_does_not_act(golden: Path, tiny: GPT2, training: bool) -> None:
    model = load_model(golden / "openai-tiny" / "models" / "tiny", dropout=0.5).train(training)
    assert torch.equal(generate(model, PROMPTS, 20), generate(tiny, PROMPTS, 20))
    assert model.training is training
    assert all(module.training is training for module in model.modules())


def test_nothing_is_recorded_for_gradients_and_the_result_can_be_trained_on(golden: Path) -> None:
    model = load_model(golden / "openai-tiny" / "models" / "tiny")
    ids = generate(model, PROMPTS, 20)
    assert not ids.requires_grad
    model.loss(ids[:, :-1], ids[:, 1:]).backward()


def test_a_bfloat16_model_generates(golden: Path) -> None:
    model = load_model(golden / "openai-tiny" / "models" / "tiny", dtype=torch.bfloat16)
    found = generate(model, PROMPTS, 60, temperature=0.7, top_k=20, top_p=0.9)
    assert found.shape == (3, 65)
    assert 0 <= int(found.min()) <= int(found.max()) < 257


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ({"temperature": -0.1}, "temperature is -0.1"),
        ({"temperature": math.nan}, "temperature is nan"),
        ({"top_k": -1}, "top_k is -1"),
        ({"top_p": 1.1}, "top_p is 1.1"),
        ({"top_p": -0.1}, "top_p is -0.1"),
        ({"seed": -1}, "seed is -1"),
        ({"max_new_tokens": -1}, "max_new_tokens is -1"),
        ({"tokens": torch.empty(2, 0, dtype=torch.int64)}, "The prompt is empty"),
        ({"tokens": torch.empty(0, 2, dtype=torch.int64)}, "The prompt is empty"),
        ({"tokens": torch.tensor([[0, 257]])}, "Token id 257 is outside the model's vocabulary of 257"),
        ({"tokens": torch.tensor([[0, -1]])}, "Token id -1 is outside"),
        ({"tokens": torch.tensor([0, 1])}, "give integers"),
        ({"tokens": torch.tensor([[0.0, 1.0]])}, "give integers"),
    ],
)
def test_arguments_out_of_range_are_refused_in_a_sentence(tiny: GPT2, arguments: dict[str, object], complaint: str) -> None:
    with pytest.raises(UserError, match=complaint):
        generate(tiny, **{"tokens": PROMPTS, **arguments})


def test_text_is_the_completion_without_the_prompt(tiny: GPT2, bytes_tokenizer: Tokenizer) -> None:
    settings = SampleSettings(max_new_tokens=50, temperature=1.0, top_k=0, seed=4)
    prompt = torch.tensor([bytes_tokenizer.encode("Hello")])
    ids = generate(tiny, prompt, 50, seed=4)[0, 5:].tolist()
    end = ids.index(256) if 256 in ids else 50
    assert generate_text(tiny, bytes_tokenizer, "Hello", settings) == bytes_tokenizer.decode(ids[:end])


def test_text_stops_before_end_of_text(tiny: GPT2, bytes_tokenizer: Tokenizer) -> None:
    settings = SampleSettings(max_new_tokens=40, temperature=50.0, top_k=0, seed=5)
    ids = generate(tiny, torch.tensor([bytes_tokenizer.encode("Hello")]), 40, temperature=50.0, seed=5)[0, 5:].tolist()
    assert 0 < ids.index(256) < 39
    assert generate_text(tiny, bytes_tokenizer, "Hello", settings) == bytes_tokenizer.decode(ids[: ids.index(256)])


def test_an_empty_prompt_stands_for_the_beginning_of_a_document(tiny: GPT2, bytes_tokenizer: Tokenizer) -> None:
    settings = SampleSettings(max_new_tokens=12, temperature=0.0)
    ids = generate(tiny, torch.tensor([[256]]), 12, temperature=0)[0, 1:].tolist()
    assert generate_text(tiny, bytes_tokenizer, "", settings) == bytes_tokenizer.decode(ids)


def test_a_tokenizer_with_more_ids_than_the_model_is_refused(bytes_tokenizer: Tokenizer) -> None:
    model = GPT2(GPT2Config(n_vocab=100, n_ctx=8, n_embd=8, n_head=2, n_layer=1)).initialise(0)
    with pytest.raises(UserError, match="outside the model's vocabulary of 100: use the model's own tokenizer"):
        generate_text(model, bytes_tokenizer, "é", SampleSettings())
