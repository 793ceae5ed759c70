"""Single tokens as text for people."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt2core.text.token_text import open_bytes, token_text, token_texts

CHINESE, EMOJI = "中".encode(), "😀".encode()


@pytest.mark.parametrize(
    ("token", "unfinished", "text"),
    [
        (b" the", b"", "·the"),
        (b"\n\t", b"", "⏎⇥"),
        ("中国".encode(), b"", "中国"),
        (CHINESE[:2], b"", "‹E4 B8›"),
        (CHINESE[2:], CHINESE[:2], "…中"),
        (EMOJI[1:2], EMOJI[:1], "‹9F›"),
        (CHINESE[2:] + CHINESE[:1], CHINESE[:2], "…中‹E4›"),
        (b"a", CHINESE[:2], "a"),
        (b"\xff\xfe", b"", "‹FF FE›"),
        ("\u0301".encode(), b"", "◌\u0301"),
        ("\u202e".encode(), b"", "U+202E"),
        (b"\x00", b"", "U+0000"),
    ],
)
def test_a_token_reads(token: bytes, unfinished: bytes, text: str) -> None:
    assert token_text(token, unfinished) == text


def test_a_character_in_four_tokens_appears_where_it_is_complete() -> None:
    assert token_texts([EMOJI[:1], EMOJI[1:2], EMOJI[2:3], EMOJI[3:], b" x"]) == ["‹F0›", "‹9F›", "‹98›", "…😀", "·x"]


@settings(max_examples=50, deadline=None)
@given(st.text(max_size=8), st.integers(0, 40))
def test_what_is_open_is_the_character_that_was_cut(text: str, cut: int) -> None:
    raw = text.encode("utf-8", "replace")[:cut]
    rest = open_bytes(raw)
    assert raw.endswith(rest)
    raw[: len(raw) - len(rest)].decode()  # what is left is whole characters


@settings(max_examples=50, deadline=None)
@given(st.lists(st.binary(max_size=5), max_size=6))
def test_any_bytes_have_a_text_that_can_be_printed(tokens: list[bytes]) -> None:
    for text in token_texts(tokens):
        text.encode()
        assert all(character.isprintable() for character in text)
