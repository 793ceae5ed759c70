"""Rows of tokens that go on together: the one loop behind `generate`, samples, the command line and the registry's model.

Rows of one batch may have prompts of different lengths. All but a prompt's last token are read row by row, then every step
reads one token of each row; so what a row gets never depends on the others. Text longer than the context goes on in a
sliding window: when a row's cache is full, its newest n_ctx // 2 tokens are read again from position 0, so a token is drawn
with at least n_ctx // 2 and at most n_ctx tokens of context. A prompt longer than n_ctx counts with its last n_ctx tokens.
Shapes: B batch, V n_vocab.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from configs.errors import UserError
from gpt2core.generation.recorded_step import RecordedStep
from gpt2core.generation.token_choice import SeenNgrams, TokenChoice, penalise_repetition
from gpt2core.machine.memory import free_bytes
from gpt2core.machine.quantities import gigabytes
from gpt2core.model.gpt2 import GPT2
from gpt2core.model.key_value_cache import KeyValueCache

UNIFORMS = 256
"""Random numbers drawn at once; how many does not change them."""
Alternatives = list[tuple[int, float]]
"""Ids with their log-probabilities, the likeliest first."""


@dataclass(frozen=True)
class Draw:
    """What the model itself, before temperature and filters, gave a token that stands in a text. In nats."""

    log_probability: float
    alternatives: Alternatives
    """The likeliest tokens at that place, with or without the one that stands there."""


class TokenRow:
    """One sequence that grows, and its own stream of random numbers, made from the seed and the row's number."""

    def __init__(self, prompt: Sequence[int], seed: int, number: int) -> None:
        if seed < 0:
            raise UserError(f"seed is {seed}: give 0 or more.")
        self.tokens = list(prompt)
        self.prompt_length = len(self.tokens)
        self._uniforms = _uniforms(seed, number)

    @property
    def new(self) -> list[int]:
        """What was added to the prompt."""
        return self.tokens[self.prompt_length :]

    def uniform(self) -> float:
        """The next random number in [0, 1)."""
        return next(self._uniforms)


def _uniforms(seed: int, number: int) -> Iterator[float]:
    stream = np.random.default_rng((seed, number))
    while True:
        yield from stream.random(UNIFORMS, np.float32).tolist()


class Continuation:
    """Rows that go on together, a token each at every step, until they are taken out. Equal prompts are read once.

    `forbid` gives the ids that a row must not draw now. Raises UserError for ids that are not the model's, where memory does
    not suffice, and for a model whose weights are not finite.
    """

    @torch.inference_mode()
    def __init__(
        self,
        model: GPT2,
        rows: Sequence[TokenRow],
        choice: TokenChoice,
        room: int,
        forbid: Callable[[TokenRow], list[int]] | None = None,
    ) -> None:
        self.rows = list(rows)
        self._model, self._choice, self._forbid = model, choice, forbid
        self._device, self._n_ctx = model.wte.weight.device, model.config.n_ctx
        for row in rows:
            _check_ids(row.tokens, model.config.n_vocab)
        self._memories = [_Memory(row.tokens, choice, model.config.n_vocab, self._device) for row in rows]
        self._recorded: RecordedStep | None = None
        self._cache = _allocate(model, len(rows), max(len(row.tokens) for row in rows) + room)
        readers: dict[tuple[int, ...], int] = {}
        for number, row in enumerate(rows):
            reader = readers.setdefault(tuple(row.tokens), number)
            if reader == number:
                self._read(number, row.tokens[-self._n_ctx : -1])
            else:
                self._cache.copy_row(reader, number)

    @torch.inference_mode()
    def step(self, alternatives: int | None = None) -> list[Draw]:
        """Add a token to each row; returns what the model gave each, with so many alternatives; nothing if that is None."""
        for number in (self._cache.lengths == self._n_ctx).nonzero().flatten().tolist():
            self._read(number, self.rows[number].tokens[-max(1, self._n_ctx // 2) : -1])
        logits = self._logits()  # [B, V]
        uniforms = torch.tensor([row.uniform() for row in self.rows], device=self._device)
        chosen = self._choice.choose(self._filtered(logits), uniforms)  # [B]
        for row, memory, token in zip(self.rows, self._memories, chosen.tolist(), strict=True):
            row.tokens.append(token)
            memory.add(token)
        return [] if alternatives is None else draws(logits, chosen, alternatives)

    @torch.inference_mode()
    def keep(self, numbers: list[int]) -> None:
        """Go on with these rows only."""
        if len(numbers) < len(self.rows):
            self.rows = [self.rows[number] for number in numbers]
            self._memories = [self._memories[number] for number in numbers]
            self._cache = self._cache.keep(numbers)

    def _read(self, number: int, tokens: list[int]) -> None:
        """Fill the row's cache with these tokens, at the positions from 0 on."""
        self._cache.lengths[number] = 0
        if tokens:
            with evaluating(self._model):
                self._model.hidden(torch.tensor([tokens], device=self._device), self._cache.row(number))

    def _logits(self) -> Tensor:
        """After each row's last token, which enters the cache: float32 [B, V]."""
        last = torch.tensor([row.tokens[-1:] for row in self.rows])  # [B, 1]
        with evaluating(self._model):
            logits = self._recorded_logits(last) if self._device.type == "cuda" else self._computed_logits(last)
        if not bool(logits.sum().isfinite()):
            raise UserError(_explain_not_finite(self._model))
        return logits

    def _computed_logits(self, last: Tensor) -> Tensor:
        return self._model.head(self._model.hidden(last.to(self._device), self._cache)[:, -1])

    def _recorded_logits(self, last: Tensor) -> Tensor:
        if self._recorded is None or self._recorded.cache is not self._cache:
            self._recorded = RecordedStep(self._model, self._cache)
        return self._recorded.logits(last)

    def _filtered(self, logits: Tensor) -> Tensor:
        """The logits after penalties, without what a row must not say; the same tensor where neither is asked for."""
        filtered = torch.stack([memory.penalise(row) for memory, row in zip(self._memories, logits, strict=True)])
        for number, (row, memory) in enumerate(zip(self.rows, self._memories, strict=True)):
            forbidden = {*(self._forbid(row) if self._forbid else ()), *memory.forbidden()}
            if len(forbidden) < logits.shape[-1]:
                filtered[number, list(forbidden)] = -torch.inf
        return filtered


class _Memory:
    """What the penalties have to know of a row's past; empty where there are none."""

    def __init__(self, tokens: list[int], choice: TokenChoice, n_vocab: int, device: torch.device) -> None:
        self._penalty = choice.repetition_penalty
        self._seen = torch.zeros(n_vocab, dtype=torch.bool, device=device) if self._penalty != 1.0 else None
        self._ngrams = SeenNgrams(choice.no_repeat_ngram_size) if choice.no_repeat_ngram_size else None
        for token in tokens:
            self.add(token)

    def add(self, token: int) -> None:
        if self._seen is not None:
            self._seen[token] = True
        if self._ngrams is not None:
            self._ngrams.add(token)

    def penalise(self, logits: Tensor) -> Tensor:
        return logits if self._seen is None else penalise_repetition(logits, self._seen, self._penalty)

    def forbidden(self) -> list[int]:
        return [] if self._ngrams is None else self._ngrams.forbidden()


def draws(logits: Tensor, chosen: Tensor, alternatives: int) -> list[Draw]:
    """What logits float32 [N, V] give the ids `chosen` int64 [N], with so many alternatives each."""
    logs = logits.log_softmax(-1)
    best = logs.topk(min(alternatives, logs.shape[-1]))  # [N, alternatives]
    own = logs.gather(-1, chosen[:, None]).squeeze(-1).tolist()
    others = zip(best.indices.tolist(), best.values.tolist(), strict=True)
    return [Draw(log, list(zip(*other, strict=True))) for log, other in zip(own, others, strict=True)]


@contextmanager
def evaluating(model: GPT2) -> Iterator[None]:
    """The model without dropout for a while; its mode is put back."""
    training = model.training
    if training:
        model.eval()
    try:
        yield
    finally:
        if training:
            model.train()


def _allocate(model: GPT2, rows: int, positions: int) -> KeyValueCache:
    """A cache for rows of so many positions; raises UserError where the machine has not the memory."""
    config, weight = model.config, model.wte.weight
    capacity = min(config.n_ctx, positions)
    needed = 2 * config.n_layer * rows * capacity * config.n_embd * weight.element_size()
    free = free_bytes() if weight.device.type == "cpu" else needed
    if needed > free:
        raise UserError(
            f"{rows:,} samples at once need {gigabytes(needed)} for keys and values, and {gigabytes(free)} are free: "
            "lower batch_size, or give fewer rows."
        )
    try:
        return KeyValueCache(config, rows, capacity, weight.device, weight.dtype)
    except torch.OutOfMemoryError:
        raise UserError(f"{rows:,} samples at once do not fit the memory of {weight.device}: lower batch_size.") from None


def _check_ids(tokens: list[int], n_vocab: int) -> None:
    wrong = next((token for token in tokens if not 0 <= token < n_vocab), None)
    if wrong is not None:
        raise UserError(f"Token id {wrong} is outside the model's vocabulary of {n_vocab}: use the model's own tokenizer.")


def _explain_not_finite(model: GPT2) -> str:
    for name, weight in (*model.named_parameters(), *model.named_buffers()):
        if weight.is_floating_point() and not bool(weight.isfinite().all()):
            return f"The model's tensor {name} holds NaN or infinite values: take an earlier checkpoint."
    return "The model's logits are not finite though its weights are: its weights are too large, take an earlier checkpoint."
