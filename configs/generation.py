"""How text is generated: for samples, for prompts of a user, for a file of them, and under the lens."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from configs.section import Positive, Section


class SampleSettings(Section):
    """How text is generated."""

    max_new_tokens: Annotated[int, Field(ge=1, le=1_000_000)] = 100
    """Tokens to generate; text longer than n_ctx goes on in a sliding window."""
    temperature: Annotated[float, Field(ge=0.0)] = 0.8
    """Divides the logits; 0 always takes the likeliest token."""
    top_k: Annotated[int, Field(ge=0)] = 40
    """Keep the k likeliest tokens; 0 keeps all."""
    top_p: Annotated[float, Field(ge=0.0, le=1.0)] = 0.0
    """Then keep the likeliest tokens that together reach probability p; 0 keeps all."""
    min_p: Annotated[float, Field(ge=0.0, le=1.0)] = 0.0
    """Then keep tokens at least this fraction as likely as the likeliest one; 0 keeps all."""
    repetition_penalty: Annotated[float, Field(gt=0.0)] = 1.0
    """Makes tokens that stand in the text already less likely; 1 is neutral, 1.2 is usual."""
    no_repeat_ngram_size: Annotated[int, Field(ge=0)] = 0
    """Never write a sequence of so many tokens twice; 0 allows it."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    """Seed of the draw; the same seed gives the same text. Each sample has a random stream of its own."""


class CompletionSettings(SampleSettings):
    """How prompts are completed, where the text is what counts."""

    samples: Positive = 1
    """Completions of each prompt."""
    min_new_tokens: Annotated[int, Field(ge=0)] = 0
    """The end-of-text token is not drawn before so many others."""
    stop: list[str] = []
    """Texts that end a completion; they are left out of it."""
    truncate: str = ""
    """One more text that ends a completion, by the name that gpt-2-simple gives it."""
    prefix: str = ""
    """Put before every prompt, for instance <|startoftext|>."""
    include_prefix: bool = True
    """Whether prefix and prompt are part of what is shown."""
    log_probabilities: bool = False
    """Also give the log-probability of each token, in nats, before temperature and filters."""
    alternatives: Annotated[int, Field(ge=0, le=20)] = 0
    """With log_probabilities: also give so many of the likeliest tokens at each place, with theirs."""
    batch_size: Annotated[int, Field(ge=1, le=4096)] = 8
    """Samples computed together; it does not change them."""
    weights: Literal["auto", "float32", "bfloat16", "int8"] = "auto"
    """Numbers in which the weights are kept: auto takes bfloat16 where the machine is faster with it, int8 is smallest."""


class BatchSettings(CompletionSettings):
    """How the prompts of a file are completed. The prompt in row r (from 0 on) is completed with the seed `seed` + r."""

    text_column: str | None = None
    """Column or key of the prompts; found unless given."""
    delimiter: str | None = None
    """What stands between the cells of a CSV file; found unless given."""
    shard_rows: Positive = 1000
    """Prompts in a shard, which is what an interruption costs at the most; it does not change the completions."""


class LensSettings(SampleSettings):
    """How the lens continues a prompt."""

    max_new_tokens: Positive = 12
    """Tokens to follow behind the prompt."""
    temperature: Annotated[float, Field(ge=0.0)] = 0.0
    """Divides the logits; 0 always takes the likeliest token."""
