"""What may be asked of the server: OpenAI's fields for /v1/completions, and gpt2flow's own; nothing else is taken."""

from __future__ import annotations

from typing import Annotated

from pydantic import BeforeValidator, Field

from configs.generation import CompletionSettings
from tasks.serving.refusal import RefusedRequestError
from tasks.serving.request_body import Body, read_fields

MOST_TOKENS = 4096
MOST_COMPLETIONS = 64
"""Completions that one request may ask for, of all its prompts together."""
MOST_ALTERNATIVES = 5

Texts = Annotated[list[str], BeforeValidator(lambda value: [value] if isinstance(value, str) else value)]


class CompletionRequest(Body):
    """The body of a request for completions."""

    model: str | None = None
    """The model by the name that /v1/models gives; what is served unless given."""
    prompt: Annotated[Texts, Field(min_length=1)]
    """A text to go on with, or several."""
    max_tokens: Annotated[int, Field(ge=1, le=MOST_TOKENS)] = 16
    """Tokens to generate."""
    temperature: Annotated[float, Field(ge=0)] = 1.0
    """Divides the logits; 0 always takes the likeliest token."""
    top_p: Annotated[float, Field(ge=0, le=1)] = 1.0
    """Keep the likeliest tokens that together reach this probability."""
    n: Annotated[int, Field(ge=1, le=MOST_COMPLETIONS)] = 1
    """Completions of each prompt."""
    stream: bool = False
    """Send the text piece by piece as it comes into being, as server-sent events; for one prompt and one completion."""
    stop: Annotated[Texts | None, Field(max_length=16)] = None
    """Texts that end a completion."""
    seed: Annotated[int | None, Field(ge=0, lt=2**63)] = None
    """The same seed gives the same text; drawn anew for each request unless given."""
    logprobs: Annotated[int | None, Field(ge=0, le=MOST_ALTERNATIVES)] = None
    """Give the log-probability of each token, in nats, before temperature and filters, and of so many of the likeliest ones."""
    echo: bool = False
    """Whether the prompt, with logprobs its tokens too, stands before the text."""
    user: str | None = None
    """Is read by nobody here; OpenAI's clients may send it."""
    top_k: Annotated[int, Field(ge=0)] = 0
    """Keep the k likeliest tokens; 0 keeps all."""
    min_p: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Keep tokens at least this fraction as likely as the likeliest one; 0 keeps all."""
    repetition_penalty: Annotated[float, Field(ge=1)] = 1.0
    """Makes tokens that stand in the text already less likely; 1 is neutral."""
    no_repeat_ngram_size: Annotated[int, Field(ge=0)] = 0
    """Never write a sequence of so many tokens twice; 0 allows it."""
    min_tokens: Annotated[int, Field(ge=0)] = 0
    """The end-of-text token is not drawn before so many others."""

    def settings(self, seed: int) -> CompletionSettings:
        """As the generating code has them; `seed` is taken where the request has none."""
        same = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty", "no_repeat_ngram_size")
        return CompletionSettings(
            **{name: getattr(self, name) for name in same},
            max_new_tokens=self.max_tokens,
            min_new_tokens=self.min_tokens,
            samples=self.n,
            stop=self.stop or [],
            seed=seed if self.seed is None else self.seed,
            log_probabilities=self.logprobs is not None,
            alternatives=self.logprobs or 0,
            batch_size=MOST_COMPLETIONS,
        )


def read_request(body: object) -> CompletionRequest:
    """The request in a body that was JSON; raises RefusedRequestError that names the parameter."""
    request = read_fields(CompletionRequest, body)
    asked = len(request.prompt) * request.n
    if asked > MOST_COMPLETIONS:
        raise RefusedRequestError(f"{asked} completions are asked for: ask for at most {MOST_COMPLETIONS}.", parameter="n")
    if request.stream and asked > 1:
        raise RefusedRequestError("stream is for one prompt and one completion: leave it out.", parameter="stream")
    return request
