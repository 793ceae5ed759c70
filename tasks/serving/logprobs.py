"""OpenAI's `logprobs`: the tokens of a text with their log-probabilities, the likeliest others, and where each begins."""

from __future__ import annotations

import codecs
from collections.abc import Sequence
from typing import Any

from gpt2core.generation.decoding import Draw
from gpt2core.generation.streaming import UNKNOWN
from gpt2core.text.tokenizer import Tokenizer


class LogprobsWriter:
    """Of one text, which may come piece by piece; `offset` characters stand before it."""

    def __init__(self, tokenizer: Tokenizer, offset: int = 0) -> None:
        self._tokenizer = tokenizer
        self._offset = offset
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def write(self, tokens: Sequence[int], draws: Sequence[Draw | None]) -> dict[str, Any]:
        """The next tokens; None stands for the draw of a text's first token, which nothing foretells."""
        return {
            "tokens": [self._name(token) for token in tokens],
            "token_logprobs": [draw and draw.log_probability for draw in draws],
            "top_logprobs": [draw and self._likeliest(token, draw) for token, draw in zip(tokens, draws, strict=True)],
            "text_offset": [self._place(token) for token in tokens],
        }

    def _likeliest(self, token: int, draw: Draw) -> dict[str, float]:
        """With the token itself, as OpenAI has it."""
        found = {self._name(other): log for other, log in draw.alternatives}
        return found | {self._name(token): draw.log_probability}

    def _place(self, token: int) -> int:
        """Where the token begins, or the character that it is a part of."""
        place = self._offset
        self._offset += len(self._decoder.decode(self._bytes(token)))
        return place

    def _name(self, token: int) -> str:
        content = self._bytes(token)
        try:
            return content.decode()
        except UnicodeDecodeError:  # part of a character
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in content)

    def _bytes(self, token: int) -> bytes:
        return self._tokenizer.token_bytes.get(token, UNKNOWN)
