"""The two doors to generated text: `generate` from tokens to tokens, `generate_response` from text to text.

The loop is in `decoding`, the choice of a token in `token_choice`, everything about text in `completion`.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from configs.errors import UserError
from configs.generation import CompletionSettings
from gpt2core.generation.completion import complete
from gpt2core.generation.decoding import Continuation, TokenRow
from gpt2core.generation.token_choice import TokenChoice
from gpt2core.model.gpt2 import GPT2
from gpt2core.text.tokenizer import Tokenizer


def generate(
    model: GPT2,
    tokens: Tensor,
    max_new_tokens: int = 20,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 0.0,
    seed: int = 0,
    *,
    min_p: float = 0.0,
    repetition_penalty: float = 1.0,
    no_repeat_ngram_size: int = 0,
) -> Tensor:
    """Continue integer tokens [B, T]; returns int64 [B, T + max_new_tokens] on the model's device, the prompt in front.

    Temperature 0 always takes the likeliest token. `top_k` keeps the k likeliest tokens, then `top_p` the likeliest that
    together reach probability p, then `min_p` those at least that fraction as likely as the likeliest; 0 keeps all. Row r
    draws from a stream of its own, made from (seed, r): its continuation depends neither on the other rows nor on any global
    random state, and a longer one begins with the shorter one. It is computed in the model's own dtype, and the model's mode
    is left as it was. Raises UserError on arguments out of range and on a model with NaN or infinite weights.
    """
    choice = TokenChoice(temperature, top_k, top_p, min_p, repetition_penalty, no_repeat_ngram_size)
    if max_new_tokens < 0:
        raise UserError(f"max_new_tokens is {max_new_tokens}: give 0 or more.")
    if tokens.ndim != 2 or tokens.is_floating_point():
        raise UserError(f"The prompt is {tokens.dtype} of shape {list(tokens.shape)}: give integers [batch, sequence].")
    if tokens.numel() == 0:
        raise UserError("The prompt is empty: give at least one token, for instance the end-of-text id.")
    rows = [TokenRow(prompt, seed, number) for number, prompt in enumerate(tokens.tolist())]
    batch = Continuation(model, rows, choice, max_new_tokens)
    for _ in range(max_new_tokens):
        batch.step()
    return torch.tensor([row.tokens for row in rows], device=model.wte.weight.device)


def generate_response(
    model: GPT2,
    tokenizer: Tokenizer,
    prompt: str,
    length: int = 20,
    temperature: float = 0.7,
    *,
    seed: int = 0,
    after_step: Callable[[], None] | None = None,
) -> str:
    """What the model answers to a prompt: only the new text, of at most `length` tokens, up to the end of text.

    The 40 likeliest tokens are drawn from, as `gpt2flow sample` does. `after_step` is called behind each token, and ends the
    work by raising. Raises UserError on values out of range.
    """
    if length < 1:
        raise UserError(f"length is {length}: give at least 1 token.")
    choice = TokenChoice(temperature, top_k=CompletionSettings().top_k)
    settings = CompletionSettings(max_new_tokens=length, temperature=choice.temperature, top_k=choice.top_k, seed=seed)
    return next(complete(model, tokenizer, [prompt], settings, after_step=after_step)).text
