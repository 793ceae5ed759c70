"""Sampling against OpenAI's continuations, plain formulas, and a second way of generating without a cache.

Also tests `gpt2core.generation.decoding`.
"""

import math
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from configs.errors import UserError
from gpt2core.generation.sampling import generate, generate_response
from gpt2core.model.config import RELEASED_SIZES, GPT2Config
from gpt2core.model.gpt2 import GPT2
from gpt2core.text.tokenizer import Tokenizer
from gpt2core.weights.loading import load_model

PROMPTS = torch.randint(0, 257, (3, 5), generator=torch.Generator().manual_seed(0))


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


@pytest.mark.slow
def test_greedy_continuations_of_a_random_124m_are_those_of_transformers() -> None:
    prompts = torch.randint(0, 50257, (2, 7), generator=torch.Generator().manual_seed(0))
    expected = [  # by transformers 5.23's GPT2LMHeadModel with these weights; the likeliest token leads by 0.015 or more
        [23310, 23310, 23310, 23310, 23310, 47899, 47899, 47899, 47899, 47899, 47899, 37540],
        [48727, 29561, 29561, 29561, 29561, 29561, 29561, 29561, 29561, 29561, 29561, 29561],
    ]
    model = GPT2(RELEASED_SIZES["124M"]).initialise(0)
    assert generate(model, prompts, 12, temperature=0)[:, 7:].tolist() == expected


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
        ({"top_p": 1.5}, "top_p is 1.5"),
        ({"top_p": -0.1}, "top_p is -0.1"),
        ({"min_p": 1.5}, "min_p is 1.5"),
        ({"repetition_penalty": 0.0}, "repetition_penalty is 0.0"),
        ({"no_repeat_ngram_size": -1}, "no_repeat_ngram_size is -1"),
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


def test_a_response_is_the_new_text_alone(tiny: GPT2, bytes_tokenizer: Tokenizer) -> None:
    ids = generate(tiny, torch.tensor([bytes_tokenizer.encode("Hello")]), 20, temperature=0.7, top_k=40, seed=4)[0, 5:].tolist()
    end = ids.index(256) if 256 in ids else 20
    assert generate_response(tiny, bytes_tokenizer, "Hello", seed=4) == bytes_tokenizer.decode(ids[:end])


def test_a_response_stops_before_end_of_text(tiny: GPT2, bytes_tokenizer: Tokenizer) -> None:
    prompt = torch.tensor([bytes_tokenizer.encode("Hello")])
    found = {seed: generate(tiny, prompt, 60, temperature=50.0, top_k=40, seed=seed)[0, 5:].tolist() for seed in range(20)}
    seed, ids = next((seed, ids) for seed, ids in found.items() if 256 in ids[1:-1])
    answer = generate_response(tiny, bytes_tokenizer, "Hello", 60, 50.0, seed=seed)
    assert answer == bytes_tokenizer.decode(ids[: ids.index(256)])


def test_an_empty_prompt_stands_for_the_beginning_of_a_document(tiny: GPT2, bytes_tokenizer: Tokenizer) -> None:
    ids = generate(tiny, torch.tensor([[256]]), 12, temperature=0)[0, 1:].tolist()
    assert generate_response(tiny, bytes_tokenizer, "", 12, 0.0) == bytes_tokenizer.decode(ids)


@pytest.mark.parametrize(("length", "temperature", "complaint"), [(0, 0.7, "length is 0"), (5, -1.0, "temperature is -1.0")])
def test_a_response_out_of_range_is_refused(
    tiny: GPT2, bytes_tokenizer: Tokenizer, length: int, temperature: float, complaint: str
) -> None:
    with pytest.raises(UserError, match=complaint):
        generate_response(tiny, bytes_tokenizer, "Hello", length, temperature)


def test_a_tokenizer_with_more_ids_than_the_model_is_refused(bytes_tokenizer: Tokenizer) -> None:
    model = GPT2(GPT2Config(n_vocab=100, n_ctx=8, n_embd=8, n_head=2, n_layer=1)).initialise(0)
    with pytest.raises(UserError, match="outside the model's vocabulary of 100: use the model's own tokenizer"):
        generate_response(model, bytes_tokenizer, "é")
