"""Completes prompts as text: stop strings, several samples of each prompt, log-probabilities, piece by piece or whole."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Literal

from configs.errors import UserError
from configs.generation import CompletionSettings
from gpt2core.generation.decoding import Alternatives, Continuation, Draw, TokenRow
from gpt2core.generation.streaming import TextStream
from gpt2core.generation.token_choice import TokenChoice
from gpt2core.machine.memory import free_bytes
from gpt2core.machine.quantities import gigabytes
from gpt2core.model.gpt2 import GPT2
from gpt2core.text.tokenizer import Tokenizer

Ending = Literal["length", "end_of_text", "stop"]
SAMPLE_BYTES, TOKEN_BYTES, ALTERNATIVE_BYTES = 1000, 40, 120
"""Bytes that a finished completion takes at least, and that each of its tokens and each token's alternatives take."""


@dataclass
class Completion:
    """What the model wrote after a prompt."""

    prompt: str
    sample: int
    """Number among the samples of this prompt, from 0 on."""
    text: str = ""
    """Without the prompt, up to the stop string or the end of text."""
    tokens: list[int] = field(default_factory=list)
    """All that were drawn, with those that ended the text."""
    log_probabilities: list[float] = field(default_factory=list)
    """Of each token, in nats, as the model gives them before temperature and filters; if they were asked for."""
    alternatives: list[Alternatives] = field(default_factory=list)
    """The likeliest tokens at the place of each; if they were asked for."""
    ending: Ending = "length"
    """What ended it: max_new_tokens, the end-of-text token, or a stop string."""


@dataclass(frozen=True)
class Step:
    """A token that is added to a completion."""

    token: int
    text: str
    """What is certain now: whole characters, nothing that is taken back; often empty."""
    draw: Draw | None
    """Where log-probabilities are asked for."""
    ending: Ending | None
    """With the last token: what ended the text."""


def complete(
    model: GPT2,
    tokenizer: Tokenizer,
    prompts: Sequence[str],
    settings: CompletionSettings,
    seeds: Sequence[int] | None = None,
    after_step: Callable[[], None] | None = None,
) -> Iterator[Completion]:
    """Yield `settings.samples` completions of each prompt in turn, computed `settings.batch_size` at a time.

    Sample i of any prompt draws from the stream of (seed, i), whatever else is asked for; `seeds` gives each prompt a seed of
    its own instead of `settings.seed`. An empty prompt stands for the beginning of a document. `after_step` is called whenever
    each text has got a token, and ends the work by raising. Raises UserError for a prompt that is no valid Unicode or not in
    the model's vocabulary, and for more samples than memory can hold.
    """
    _require_memory(len(prompts) * settings.samples, settings)
    seeds = [settings.seed] * len(prompts) if seeds is None else seeds
    seeded = zip(prompts, seeds, strict=True)
    wanted = ((prompt, sample, seed) for prompt, seed in seeded for sample in range(settings.samples))
    while batch := list(islice(wanted, settings.batch_size)):
        writings = [_Writing(tokenizer, settings, *each) for each in batch]
        for _ in _write(model, tokenizer, writings, settings):
            if after_step:
                after_step()
        yield from (writing.completion for writing in writings)


def _require_memory(samples: int, settings: CompletionSettings) -> None:
    tokens, alternatives = settings.max_new_tokens, settings.alternatives
    needed, free = samples * (SAMPLE_BYTES + tokens * (TOKEN_BYTES + alternatives * ALTERNATIVE_BYTES)), free_bytes()
    if needed > free:
        raise UserError(
            f"{samples:,} samples of up to {tokens:,} tokens need {gigabytes(needed)}, and {gigabytes(free)} are free: "
            "ask for fewer at once."
        )


def stream(model: GPT2, tokenizer: Tokenizer, prompt: str, settings: CompletionSettings) -> Iterator[str]:
    """The text of the prompt's first sample as it comes into being: whole characters, nothing that is taken back."""
    return (step.text for step in steps(model, tokenizer, prompt, settings))


def steps(model: GPT2, tokenizer: Tokenizer, prompt: str, settings: CompletionSettings) -> Iterator[Step]:
    """The prompt's first sample, token by token."""
    writing = _Writing(tokenizer, settings, prompt, 0, settings.seed)
    return (step for (step,) in _write(model, tokenizer, [writing], settings))


def beyond_context(model: GPT2, tokenizer: Tokenizer, prompts: Sequence[str], settings: CompletionSettings) -> str | None:
    """A sentence that says what happens to text longer than the context; None where all of it fits."""
    n_ctx, longest = model.config.n_ctx, max(len(encode_prompt(tokenizer, settings.prefix + prompt)) for prompt in prompts)
    if longest > n_ctx:
        return f"The longest prompt has {longest:,} tokens and the context {n_ctx:,}: the model sees its last {n_ctx:,}."
    if longest + settings.max_new_tokens > n_ctx:
        return f"Text beyond the context of {n_ctx:,} tokens goes on from its newest {max(1, n_ctx // 2):,} to {n_ctx:,}."
    return None


class _Writing:
    """One completion that is being written."""

    def __init__(self, tokenizer: Tokenizer, settings: CompletionSettings, prompt: str, sample: int, seed: int) -> None:
        self.completion = Completion(settings.prefix + prompt, sample)
        self.row = TokenRow(encode_prompt(tokenizer, self.completion.prompt), seed, sample)
        self._stream = TextStream(tokenizer, [*settings.stop, settings.truncate])
        self._end_of_text, self._most = tokenizer.end_of_text, settings.max_new_tokens
        self.finished = False

    def take(self, draw: Draw | None) -> Step:
        """Look at the token that the row has got."""
        done, token = self.completion, self.row.tokens[-1]
        done.tokens.append(token)
        if draw is not None:
            done.log_probabilities.append(draw.log_probability)
            done.alternatives += [draw.alternatives] if draw.alternatives else []
        piece = "" if token == self._end_of_text else self._stream.add(token)
        if self._stream.stopped:
            done.ending = "stop"
        elif token == self._end_of_text:
            done.ending = "end_of_text"
        self.finished = done.ending != "length" or len(done.tokens) == self._most
        if self.finished:
            piece += self._stream.close()
            done.ending = "stop" if self._stream.stopped else done.ending
        done.text += piece
        return Step(token, piece, draw, done.ending if self.finished else None)


def _write(model: GPT2, tokenizer: Tokenizer, writings: list[_Writing], settings: CompletionSettings) -> Iterator[list[Step]]:
    """Let all writings come to their end; yields what each that is not finished has got, again and again."""

    def forbid(row: TokenRow) -> list[int]:
        return [tokenizer.end_of_text] if len(row.tokens) - row.prompt_length < settings.min_new_tokens else []

    filters = {name: getattr(settings, name) for name in TokenChoice.__dataclass_fields__}
    rows = [writing.row for writing in writings]
    batch, going = Continuation(model, rows, TokenChoice(**filters), settings.max_new_tokens, forbid), writings
    alternatives = settings.alternatives if settings.log_probabilities else None
    while going:
        found = batch.step(alternatives)
        yield [writing.take(found[number] if found else None) for number, writing in enumerate(going)]
        numbers = [number for number, writing in enumerate(going) if not writing.finished]
        batch.keep(numbers)
        going = [going[number] for number in numbers]


def encode_prompt(tokenizer: Tokenizer, prompt: str) -> list[int]:
    """Ids of a prompt, where the empty one stands for the beginning of a document; raises UserError for half a character."""
    try:
        prompt.encode()
    except UnicodeEncodeError as error:
        raise UserError(
            f"The prompt's character {error.start + 1} is half of a pair (U+{ord(prompt[error.start]):04X}), which no text can "
            "hold: give valid UTF-8."
        ) from None
    return tokenizer.encode(prompt) or [tokenizer.end_of_text]
