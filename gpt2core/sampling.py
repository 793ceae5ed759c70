"""Continues token sequences: temperature, top_k, top_p, a key/value cache, and a random stream of its own for each row.

Text longer than the context goes on in a sliding window: when the cache is full, the newest n_ctx // 2 tokens are read
again from position 0, so a token is drawn with at least n_ctx // 2 and at most n_ctx tokens of context. A prompt longer
than n_ctx counts with its last n_ctx tokens. Shapes: B batch, T prompt length, N new tokens, V n_vocab.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from configs.errors import UserError
from configs.schema import SampleSettings
from gpt2core.model import GPT2, KeyValueCache

if TYPE_CHECKING:
    from gpt2core.tokenizer import Tokenizer


def generate(
    model: GPT2,
    tokens: Tensor,
    max_new_tokens: int = 20,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 0.0,
    seed: int = 0,
) -> Tensor:
    """Continue integer tokens [B, T]; returns int64 [B, T + max_new_tokens] on the model's device, the prompt in front.

    Temperature 0 always takes the likeliest token. `top_k` keeps the k likeliest tokens, then `top_p` the likeliest that
    together reach probability p; 0 keeps all. Row r draws from a stream of its own, made from (seed, r): its continuation
    depends neither on the other rows nor on any global random state, and a longer one begins with the shorter one. The
    model's mode is left as it was. Raises UserError on arguments out of range.
    """
    draw = Draw(temperature, top_k, top_p, seed)
    if max_new_tokens < 0:
        raise UserError(f"max_new_tokens is {max_new_tokens}: give 0 or more.")
    prompt = _checked_prompt(model, tokens)
    ids = F.pad(prompt, (0, max_new_tokens))  # [B, T + N]
    _continue(model, ids, prompt.shape[1], draw)
    return ids


def generate_text(model: GPT2, tokenizer: Tokenizer, prompt: str, settings: SampleSettings) -> str:
    """The completion of `prompt`, without the prompt, up to the end-of-text token or `settings.max_new_tokens`.

    An empty prompt stands for the beginning of a document: the model then sees the end-of-text token. Raises UserError
    where the tokenizer has ids that the model has not.
    """
    draw = Draw(settings.temperature, settings.top_k, settings.top_p, settings.seed)
    tokens = _checked_prompt(model, torch.tensor([tokenizer.encode(prompt) or [tokenizer.end_of_text]]))
    ids, start = F.pad(tokens, (0, settings.max_new_tokens)), tokens.shape[1]  # [1, T + N]
    end = _continue(model, ids, start, draw, stop=tokenizer.end_of_text)
    return tokenizer.decode(ids[0, start:end].tolist())


def keep_top_k(logits: Tensor, k: int) -> Tensor:
    """Logits [..., V] with everything below the k-th largest at -inf; what equals it stays. 0 keeps all."""
    if not 0 < k < logits.shape[-1]:
        return logits
    smallest = logits.topk(k).values[..., -1:]
    return logits.masked_fill(logits < smallest, -torch.inf)


def keep_top_p(logits: Tensor, p: float) -> Tensor:
    """Logits [..., V] with all but the likeliest that together reach probability p at -inf. 0 and 1 keep all.

    Sorted from the likeliest on, a token stays while those before it sum to less than p, so the one that crosses p stays;
    what equals the last one stays too.
    """
    if not 0.0 < p < 1.0:
        return logits
    ordered = logits.sort(descending=True).values
    before = F.pad(ordered.softmax(-1).cumsum(-1)[..., :-1], (1, 0))  # exclusive sum
    smallest = ordered.masked_fill(before >= p, torch.inf).amin(-1, keepdim=True)
    return logits.masked_fill(logits < smallest, -torch.inf)


@dataclass(frozen=True)
class Draw:
    """How a next token is chosen from logits; raises UserError on values out of range."""

    temperature: float
    top_k: int
    top_p: float
    seed: int

    def __post_init__(self) -> None:
        if not self.temperature >= 0.0:
            raise UserError(f"temperature is {self.temperature}: give 0 (always the likeliest token) or more.")
        if self.top_k < 0:
            raise UserError(f"top_k is {self.top_k}: give 0 (keep all) or more.")
        if not 0.0 <= self.top_p <= 1.0:
            raise UserError(f"top_p is {self.top_p}: give a probability from 0 (keep all) to 1.")
        if self.seed < 0:
            raise UserError(f"seed is {self.seed}: give 0 or more.")

    def uniforms(self, batch: int, count: int) -> Tensor:
        """Random numbers float32 [batch, count] in [0, 1), each row a stream of its own."""
        streams = [np.random.default_rng((self.seed, row)) for row in range(batch)]
        return torch.from_numpy(np.stack([stream.random(count, np.float32) for stream in streams]))

    def choose(self, logits: Tensor, uniform: Tensor) -> Tensor:
        """Next ids int64 [B] from logits float32 [B, V] and one random number a row [B]."""
        if self.temperature == 0.0:
            return logits.argmax(-1)
        temperature = max(self.temperature, torch.finfo(logits.dtype).tiny)
        scaled = (logits - logits.amax(-1, keepdim=True)) / temperature  # at most 0, so nothing overflows
        kept = keep_top_p(keep_top_k(scaled, self.top_k), self.top_p)
        cumulative = kept.softmax(-1).cumsum(-1)
        # The first token whose sum passes the drawn share of the total, so none of probability 0.
        chosen = torch.searchsorted(cumulative, uniform[:, None] * cumulative[:, -1:], right=True)
        return chosen.squeeze(-1).clamp(max=logits.shape[-1] - 1)


@torch.no_grad()
def _continue(model: GPT2, ids: Tensor, start: int, draw: Draw, stop: int | None = None) -> int:
    """Fill ids [B, T + N] in place from position `start`; returns the end, which is where the first row drew `stop`."""
    n_ctx, (batch, end) = model.config.n_ctx, ids.shape
    uniforms = draw.uniforms(batch, end - start).to(ids.device)  # [B, N]
    cache = KeyValueCache(model.config, batch, min(n_ctx, end), ids.device, model.wte.weight.dtype)
    unread = max(0, start - n_ctx)
    training = model.training
    model.eval()
    try:
        for position in range(start, end):
            if cache.length + position - unread > n_ctx:
                cache.length, unread = 0, position - max(1, n_ctx // 2)
            last = model.hidden(ids[:, unread:position], cache)[:, -1]  # [B, C]
            ids[:, position] = draw.choose(model.head(last), uniforms[:, position - start])
            unread = position
            if stop is not None and ids[0, position] == stop:
                return position
        return end
    finally:
        model.train(training)


def _checked_prompt(model: GPT2, tokens: Tensor) -> Tensor:
    """The prompt as int64 on the model's device."""
    if tokens.ndim != 2 or tokens.is_floating_point():
        raise UserError(f"The prompt is {tokens.dtype} of shape {list(tokens.shape)}: give integers [batch, sequence].")
    if tokens.numel() == 0:
        raise UserError("The prompt is empty: give at least one token, for instance the end-of-text id.")
    least, most, n_vocab = int(tokens.min()), int(tokens.max()), model.config.n_vocab
    if least < 0 or most >= n_vocab:
        wrong = least if least < 0 else most
        raise UserError(f"Token id {wrong} is outside the model's vocabulary of {n_vocab}: use the model's own tokenizer.")
    return tokens.to(model.wte.weight.device, torch.int64)
