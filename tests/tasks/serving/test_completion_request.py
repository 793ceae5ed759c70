"""Requests for completions: what is taken, and the sentence for what is not."""

import pytest

from tasks.serving.completion_request import read_request
from tasks.serving.refusal import RefusedRequestError


def test_a_request_says_all_that_generation_needs() -> None:
    asked = read_request({"prompt": "Once", "max_tokens": 5, "stop": "###", "n": 2, "logprobs": 1, "seed": 7, "top_k": 40})
    settings = asked.settings(seed=99)
    assert asked.prompt == ["Once"]
    assert (settings.max_new_tokens, settings.samples, settings.stop, settings.seed) == (5, 2, ["###"], 7)
    assert settings.log_probabilities
    assert read_request({"prompt": ["a", "b"]}).settings(seed=99).seed == 99


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        ([], "no JSON object"),
        ({}, "prompt is missing"),
        ({"prompt": []}, r"prompt is \[\], but should be"),
        ({"prompt": 5}, "prompt is 5, but should be a valid list"),
        ({"prompt": ["a", 5]}, "prompt is 5, but should be a valid string"),
        ({"prompt": "a", "temprature": 1.0}, "'temprature' is not a parameter: known are .*temperature"),
        ({"prompt": "a", "temperature": "hot"}, "temperature is 'hot', but should be a valid number"),
        ({"prompt": "a", "temperature": -1}, "temperature is -1, but should be greater than or equal to 0"),
        ({"prompt": "a", "temperature": float("nan")}, "temperature is nan, but should be"),
        ({"prompt": "a", "temperature": True}, "temperature is True, but should be a valid number"),
        ({"prompt": "a", "max_tokens": 10**9}, "max_tokens is 1000000000, but should be less than or equal to 4096"),
        ({"prompt": "a", "max_tokens": "5"}, "max_tokens is '5', but should be a valid integer"),
        ({"prompt": "a", "max_tokens": 10**400}, "max_tokens is 1000"),
        ({"prompt": "a", "seed": -1}, "seed is -1"),
        ({"prompt": ["a"] * 40, "n": 2}, "80 completions are asked for"),
        ({"prompt": "a", "n": 2, "stream": True}, "stream is for one prompt"),
        ({"prompt": "a", "logprobs": 6}, "logprobs is 6, but should be less than or equal to 5"),
        ({"prompt": "a", "\x1b[31m": 1}, r"'\\x1b\[31m' is not a parameter"),
    ],
)
def test_what_cannot_be_is_refused_in_one_sentence(body: object, sentence: str) -> None:
    with pytest.raises(RefusedRequestError, match=sentence) as refused:
        read_request(body)
    assert refused.value.status == 400
    assert len(str(refused.value)) < 400
