"""Completions beside `generate`, beside each prompt alone, and beside plain searches in the text."""

from itertools import pairwise
from pathlib import Path

import pytest
import torch

from configs.errors import UserError
from configs.generation import CompletionSettings
from gpt2core.generation.completion import Completion, beyond_context, complete, stream
from gpt2core.generation.sampling import generate
from gpt2core.model.config import GPT2Config
from gpt2core.model.gpt2 import GPT2
from gpt2core.text.tokenizer import Tokenizer
from gpt2core.weights.loading import load_model

PROMPTS = ["Hello", "", "A much longer prompt than the first one, beyond the context of 32", "Hello", "é"]


def settings(**given: object) -> CompletionSettings:
    return CompletionSettings.model_validate({"max_new_tokens": 40, "temperature": 1.0, "top_k": 0, "seed": 4, **given})


def all_of(model: GPT2, tokenizer: Tokenizer, prompts: list[str], **given: object) -> list[Completion]:
    return list(complete(model, tokenizer, prompts, settings(**given)))


def test_prompts_of_different_lengths_complete_together_as_they_would_alone(tiny: GPT2, bytes_tokenizer: Tokenizer) -> None:
    together = all_of(tiny, bytes_tokenizer, PROMPTS, samples=2, temperature=0.9, top_p=0.9)
    alone = [
        one for prompt in PROMPTS for one in all_of(tiny, bytes_tokenizer, [prompt], samples=2, temperature=0.9, top_p=0.9)
    ]
    assert together == alone
    assert [(one.prompt, one.sample) for one in together] == [(prompt, i) for prompt in PROMPTS for i in range(2)]


@pytest.mark.parametrize("batch_size", [1, 3, 100])
def test_the_batch_size_does_not_change_samples(tiny: GPT2, bytes_tokenizer: Tokenizer, batch_size: int) -> None:
    usual = all_of(tiny, bytes_tokenizer, PROMPTS, samples=2)
    assert all_of(tiny, bytes_tokenizer, PROMPTS, samples=2, batch_size=batch_size) == usual


def test_sample_i_is_row_i_of_generate(tiny: GPT2, bytes_tokenizer: Tokenizer) -> None:
    rows = generate(tiny, torch.tensor([bytes_tokenizer.encode("Hello")] * 4), 40, seed=4)[:, 5:]
    for one, row in zip(all_of(tiny, bytes_tokenizer, ["Hello"], samples=4), rows.tolist(), strict=True):
        assert one.tokens == row[: len(one.tokens)]
        assert one.ending == ("end_of_text" if 256 in row else "length")


def test_log_probabilities_are_the_models_own(tiny: GPT2, bytes_tokenizer: Tokenizer) -> None:
    (one,) = all_of(tiny, bytes_tokenizer, ["Hello"], log_probabilities=True, max_new_tokens=20, top_k=5, temperature=0.5)
    ids = torch.tensor([bytes_tokenizer.encode("Hello") + one.tokens])
    with torch.no_grad():
        expected = tiny(ids).log_softmax(-1)[0, 4:-1].gather(-1, ids[0, 5:, None])[:, 0]
    assert one.log_probabilities == pytest.approx(expected.tolist(), abs=1e-5)


def test_streamed_pieces_join_to_the_completion(tiny: GPT2, bytes_tokenizer: Tokenizer) -> None:
    for prompt in PROMPTS:
        (one,) = all_of(tiny, bytes_tokenizer, [prompt], stop=["e"])
        assert "".join(stream(tiny, bytes_tokenizer, prompt, settings(stop=["e"]))) == one.text


def test_a_stop_string_and_truncate_cut_the_same_text_where_it_first_occurs(tiny: GPT2, bytes_tokenizer: Tokenizer) -> None:
    (whole,) = all_of(tiny, bytes_tokenizer, ["Hello"], seed=1)
    mark = whole.text[12:14]
    for given in ({"stop": ["never there", mark]}, {"truncate": mark}):
        (cut,) = all_of(tiny, bytes_tokenizer, ["Hello"], seed=1, **given)
        assert cut.text == whole.text.split(mark)[0]
        assert cut.ending == "stop"
        assert cut.tokens == whole.tokens[: len(cut.tokens)]


def test_no_end_of_text_before_min_new_tokens(tiny: GPT2, bytes_tokenizer: Tokenizer) -> None:
    given = {"temperature": 50.0, "samples": 20, "max_new_tokens": 40}
    assert min(len(one.tokens) for one in all_of(tiny, bytes_tokenizer, ["x"], **given)) < 30
    assert min(len(one.tokens) for one in all_of(tiny, bytes_tokenizer, ["x"], **given, min_new_tokens=30)) > 30


def test_no_ngram_is_written_twice(tiny: GPT2, bytes_tokenizer: Tokenizer) -> None:
    (loop,) = all_of(tiny, bytes_tokenizer, ["Hello"], temperature=0.0, max_new_tokens=60)
    (free,) = all_of(tiny, bytes_tokenizer, ["Hello"], temperature=0.0, max_new_tokens=60, no_repeat_ngram_size=2)

    def pairs(tokens: list[int]) -> list[tuple[int, int]]:
        return list(pairwise(tokens))

    assert len(set(pairs(loop.tokens))) < len(pairs(loop.tokens))
    assert len(set(pairs(free.tokens))) == len(pairs(free.tokens))


def test_a_prefix_stands_before_every_prompt(tiny: GPT2, bytes_tokenizer: Tokenizer) -> None:
    (one,) = all_of(tiny, bytes_tokenizer, ["lo"], prefix="Hel")
    assert one == all_of(tiny, bytes_tokenizer, ["Hello"])[0]


def test_a_sentence_says_what_happens_beyond_the_context(tiny: GPT2, bytes_tokenizer: Tokenizer) -> None:
    assert beyond_context(tiny, bytes_tokenizer, ["Hello"], settings(max_new_tokens=27)) is None
    assert beyond_context(tiny, bytes_tokenizer, ["Hello"], settings(max_new_tokens=28)) == (
        "Text beyond the context of 32 tokens goes on from its newest 16 to 32."
    )
    assert "The longest prompt has 65 tokens and the context 32" in str(
        beyond_context(tiny, bytes_tokenizer, PROMPTS, settings())
    )


def test_half_a_pair_in_the_prompt_is_refused(tiny: GPT2, bytes_tokenizer: Tokenizer) -> None:
    with pytest.raises(UserError, match=r"The prompt's character 3 is half of a pair \(U\+D83D\)"):
        all_of(tiny, bytes_tokenizer, ["ab\ud83d"])


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused_by_name(golden: Path, value: float) -> None:
    model = load_model(golden / "openai-tiny" / "models" / "tiny")
    model.h[1].mlp.c_fc.weight.data[3, 5] = value
    with pytest.raises(UserError, match=r"The model's tensor h\.1\.mlp\.c_fc\.weight holds NaN or infinite values"):
        generate(model, torch.tensor([[1, 2, 3]]))


def test_more_samples_than_memory_are_refused_before_anything_is_computed() -> None:
    model = GPT2(GPT2Config(n_vocab=10, n_ctx=65_536, n_embd=64, n_head=1, n_layer=1)).initialise(0)
    with pytest.raises(UserError, match=r"10,000 samples at once need 335\.54 GB for keys and values, and .* GB are free"):
        generate(model, torch.zeros(10_000, 1, dtype=torch.int64), 70_000)
