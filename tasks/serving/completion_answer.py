"""Answers to requests for completions in OpenAI's form, whole or piece by piece."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterator
from typing import Any

from gpt2core.generation.completion import Completion, Step
from gpt2core.generation.decoding import Draw
from tasks.serving.completion_request import CompletionRequest
from tasks.serving.logprobs import LogprobsWriter
from tasks.serving.refusal import RefusedRequestError
from tasks.serving.served_model import LoadedModel

ENDINGS = {"length": "length", "end_of_text": "stop", "stop": "stop", None: None}


def require_fit(loaded: LoadedModel, asked: CompletionRequest) -> list[int]:
    """Tokens of each prompt; raises RefusedRequestError for a prompt that the model would see only the end of."""
    lengths, n_ctx = [len(loaded.encode(prompt)) for prompt in asked.prompt], loaded.model.config.n_ctx
    if max(lengths) > n_ctx:
        sentence = f"A prompt has {max(lengths):,} tokens and the model's context {n_ctx:,}: shorten it."
        raise RefusedRequestError(sentence, parameter="prompt")
    return lengths


def whole_answer(loaded: LoadedModel, asked: CompletionRequest, after_step: Callable[[], None]) -> dict[str, Any]:
    """All completions; `after_step` is called between tokens and may raise."""
    lengths = require_fit(loaded, asked)
    done = list(loaded.complete(asked.prompt, asked.settings(_any_seed()), after_step))
    written = sum(len(each.tokens) for each in done)
    usage = {"prompt_tokens": sum(lengths), "completion_tokens": written, "total_tokens": sum(lengths) + written}
    choices = [_whole_choice(loaded, asked, number, each) for number, each in enumerate(done)]
    return {**head(loaded), "choices": choices, "usage": usage}


def pieces(loaded: LoadedModel, asked: CompletionRequest) -> Iterator[dict[str, Any]]:
    """One completion, a choice for each piece of text that is certain; the last one says what ended it."""
    prompt = asked.prompt[0]
    writer = _writer(loaded, asked, prompt)
    if asked.echo:
        yield _choice(0, prompt, writer.write(*_prompt_draws(loaded, asked, prompt)) if writer else None, None)
    held: list[Step] = []
    for step in loaded.steps(prompt, asked.settings(_any_seed())):
        held.append(step)
        if step.text or step.ending:
            logs = writer.write([each.token for each in held], [each.draw for each in held]) if writer else None
            yield _choice(0, step.text, logs, ENDINGS[step.ending])
            held = []


def head(loaded: LoadedModel) -> dict[str, Any]:
    """What every answer begins with."""
    identity = f"cmpl-{secrets.token_hex(12)}"
    return {"id": identity, "object": "text_completion", "created": int(time.time()), "model": loaded.name}


def _whole_choice(loaded: LoadedModel, asked: CompletionRequest, number: int, done: Completion) -> dict[str, Any]:
    writer, logs = _writer(loaded, asked, done.prompt), None
    if writer:
        tokens, draws = _prompt_draws(loaded, asked, done.prompt) if asked.echo else ([], [])
        others = done.alternatives or [[]] * len(done.tokens)
        drawn = [Draw(log, other) for log, other in zip(done.log_probabilities, others, strict=True)]
        logs = writer.write([*tokens, *done.tokens], [*draws, *drawn])
    return _choice(number, (done.prompt if asked.echo else "") + done.text, logs, ENDINGS[done.ending])


def _choice(number: int, text: str, logs: dict[str, Any] | None, ending: str | None) -> dict[str, Any]:
    return {"text": text, "index": number, "logprobs": logs, "finish_reason": ending}


def _writer(loaded: LoadedModel, asked: CompletionRequest, prompt: str) -> LogprobsWriter | None:
    """None where no log-probabilities are asked for."""
    return None if asked.logprobs is None else LogprobsWriter(loaded.tokenizer, 0 if asked.echo else len(prompt))


def _prompt_draws(loaded: LoadedModel, asked: CompletionRequest, prompt: str) -> tuple[list[int], list[Draw | None]]:
    if not prompt:
        return [], []
    tokens = loaded.encode(prompt)
    return tokens, loaded.prompt_draws(tokens, asked.logprobs or 0)


def _any_seed() -> int:
    return secrets.randbits(63)
