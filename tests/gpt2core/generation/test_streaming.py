"""Streamed pieces beside decoding everything at once; stop strings beside a search character by character."""

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from gpt2core.generation.streaming import TextStream
from gpt2core.text.tokenizer import Tokenizer, load_tokenizer


def pieces(tokenizer: Tokenizer, ids: list[int], stop: list[str] | None = None) -> list[str]:
    stream = TextStream(tokenizer, stop or [])
    return [*(stream.add(token) for token in ids), stream.close()]


def test_pieces_join_to_the_same_text_for_strings_that_break_software(shared: Path, bytes_tokenizer: Tokenizer) -> None:
    gpt2 = load_tokenizer(shared / "data" / "vocab")
    for text in (shared / "data" / "unicode" / "blns.txt").read_text(encoding="utf-8").split("\n"):
        for tokenizer in (gpt2, bytes_tokenizer):
            found = pieces(tokenizer, tokenizer.encode(text))
            assert "".join(found) == text
            assert "\ufffd" in text or not any("\ufffd" in piece for piece in found)  # no half character was shown


@given(ids=st.lists(st.integers(0, 300), max_size=40))
def test_pieces_of_any_tokens_join_to_what_decoding_gives(bytes_tokenizer: Tokenizer, ids: list[int]) -> None:
    assert "".join(pieces(bytes_tokenizer, ids)) == bytes_tokenizer.decode(ids)


def until_stop(text: str, stop: list[str]) -> str:
    """The text before the stop string that is complete first, character by character."""
    for end in range(len(text) + 1):
        if ends := [s for s in stop if text[:end].endswith(s)]:
            return text[: end - max(map(len, ends))]
    return text


WORDS = st.text("ab", min_size=1, max_size=4)


@given(text=st.text("abcé", max_size=30), stop=st.lists(WORDS, max_size=3), cuts=st.lists(st.integers(1, 5), max_size=30))
def test_text_ends_before_the_stop_string_that_is_complete_first(text: str, stop: list[str], cuts: list[int]) -> None:
    raw, tokens = text.encode(), {}
    for number, cut in enumerate([*cuts, len(raw) + 1]):  # tokens of any bytes, also of parts of characters
        tokens[number], raw = raw[:cut], raw[cut:]

    class Vocabulary:
        token_bytes = tokens

    stream, shown = TextStream(Vocabulary(), stop), ""
    expected = until_stop(text, stop)
    for number in tokens:
        shown += stream.add(number)
        assert expected.startswith(shown)  # nothing was shown that had to be taken back
    assert shown + stream.close() == expected
    assert stream.stopped == (expected != text)


def test_what_may_become_a_stop_string_is_held_back_until_it_is_decided(bytes_tokenizer: Tokenizer) -> None:
    assert pieces(bytes_tokenizer, bytes_tokenizer.encode("a<|x<|end"), ["<|end|>"]) == [
        "a", "", "", "<|x", "", "", "", "", "", "<|end",
    ]  # fmt: skip
