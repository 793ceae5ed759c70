"""OpenAI's form of tokens that are whole characters, parts of one, or the end of the text."""

from pathlib import Path

import pytest

from gpt2core import load_tokenizer
from gpt2core.generation.decoding import Draw
from gpt2core.text.tokenizer import Tokenizer
from tasks.serving.logprobs import LogprobsWriter


@pytest.fixture(scope="module")
def tokenizer(golden: Path) -> Tokenizer:
    """A token for each byte, and the end of text."""
    return load_tokenizer(golden / "openai-tiny" / "models" / "tiny")


def test_parts_of_a_character_are_named_by_their_bytes_and_begin_where_it_does(tokenizer: Tokenizer) -> None:
    tokens = [*tokenizer.encode("aé中b"), tokenizer.end_of_text]
    found = LogprobsWriter(tokenizer, 10).write(tokens, [Draw(-1.0, [])] * len(tokens))
    parts = ["bytes:\\xc3", "bytes:\\xa9", "bytes:\\xe4", "bytes:\\xb8", "bytes:\\xad"]
    assert found["tokens"] == ["a", *parts, "b", "<|endoftext|>"]
    assert found["text_offset"] == [10, 11, 11, 12, 12, 12, 13, 14]


def test_pieces_go_on_where_the_one_before_ended(tokenizer: Tokenizer) -> None:
    tokens, writer = tokenizer.encode("né中"), LogprobsWriter(tokenizer)
    whole = LogprobsWriter(tokenizer).write(tokens, [None] * len(tokens))
    pieces = [writer.write([token], [None]) for token in tokens]
    assert [place for piece in pieces for place in piece["text_offset"]] == whole["text_offset"]


def test_alternatives_keep_their_order_and_the_token_itself_is_among_them(tokenizer: Tokenizer) -> None:
    a, b, c = tokenizer.encode("abc")
    found = LogprobsWriter(tokenizer).write([a, b], [None, Draw(-3.0, [(c, -0.5), (a, -1.0)])])
    assert found["top_logprobs"] == [None, {"c": -0.5, "a": -1.0, "b": -3.0}]
    assert list(found["top_logprobs"][1]) == ["c", "a", "b"]
    assert found["token_logprobs"] == [None, -3.0]
