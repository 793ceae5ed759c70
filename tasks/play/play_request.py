"""What the page asks for beside completions: a chat line, a look through the lens, a duel, a vote."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from configs.generation import CompletionSettings
from tasks.serving.request_body import Body

MOST_NEW = 400
"""Tokens of an answer or of each text of a duel."""
MOST_LENS = 24
"""Tokens that the lens follows; each takes a gradient through the whole model."""
Seed = Annotated[int, Field(ge=0, lt=2**63)]
Temperature = Annotated[float, Field(ge=0)]
Choice = Literal["left", "right", "equal"]


class ChatRequest(Body):
    """Lines of a conversation, the last one to be answered."""

    lines: Annotated[list[str], Field(min_length=1, max_length=200)]
    length: Annotated[int, Field(ge=1, le=MOST_NEW)] = 20
    """Tokens of the answer at most."""
    temperature: Temperature = 0.7
    seed: Seed = 0


class LensRequest(Body):
    """A text to look at."""

    prompt: str
    tokens: Annotated[int, Field(ge=1, le=MOST_LENS)] = 8
    """New tokens to follow, always the likeliest."""
    watch: Annotated[list[str], Field(max_length=8)] = []
    """Single tokens whose ranks are shown."""


class DuelRequest(Body):
    """A prompt for champion and candidate, and how both go on with it."""

    prompt: str
    max_tokens: Annotated[int, Field(ge=1, le=MOST_NEW)] = 60
    temperature: Temperature = 0.8
    top_k: Annotated[int, Field(ge=0)] = 40
    top_p: Annotated[float, Field(ge=0, le=1)] = 1.0
    seed: Seed = 0

    def settings(self) -> CompletionSettings:
        """As the generating code has them."""
        return CompletionSettings(max_new_tokens=self.max_tokens, **self.model_dump(exclude={"prompt", "max_tokens"}))


class VoteRequest(Body):
    """Which text of a duel is better."""

    duel: str
    choice: Choice
