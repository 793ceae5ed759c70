"""A text, its continuation and what every layer made of them, as plain values for pages, pictures and files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from pydantic import TypeAdapter, ValidationError

from configs.errors import UserError
from configs.generation import SampleSettings
from gpt2core.generation.completion import encode_prompt
from gpt2core.generation.sampling import generate
from gpt2core.lens.lens import Lens
from gpt2core.machine.durable import write_json
from gpt2core.model.gpt2 import GPT2
from gpt2core.text.token_text import open_bytes, token_text, token_texts
from gpt2core.text.tokenizer import Tokenizer


@dataclass(frozen=True)
class Guess:
    """A token, as text too, and the probability that a layer gives it."""

    token: int
    text: str
    probability: float


@dataclass(frozen=True)
class LensReading:
    """Layer 0 is the embedding. A column is a token of the text that is looked at: usually those that the model wrote."""

    prompt: str
    continuation: str
    """What the model wrote after it."""
    before: list[str]
    """The tokens before the first column."""
    columns: list[str]
    predictions: list[list[list[Guess]]]
    """[column][layer][rank]: what each layer would say where the column's token stands."""
    rankings: list[list[int]]
    """[layer][column]: rank of the column's token, 1 is best."""
    saliency: list[list[float]]
    """[column][token before it]: shares that sum to 1."""
    watched: list[str]
    watched_rankings: list[list[int]]
    """[layer][watched token]: its rank where the first column's token stands."""
    ecco_compat: bool

    @property
    def layer_names(self) -> list[str]:
        """Names of the rows."""
        return ["embedding", *(f"layer {layer}" for layer in range(1, len(self.rankings)))]

    def best(self, layer: int, column: int) -> Guess:
        """What the layer would say there."""
        return self.predictions[column][layer][0]


def read_lens(
    model: GPT2,
    tokenizer: Tokenizer,
    prompt: str,
    settings: SampleSettings,
    watch: Sequence[str] = (),
    position: int | None = None,
    top_k: int = 10,
    ecco_compat: bool = False,
) -> LensReading:
    """Continue the prompt by `settings.max_new_tokens` tokens and read every layer along the way.

    The first column is the first new token, or the one at `position` of the prompt, whose first token is 0. Raises UserError
    if prompt and new tokens do not fit the context, if a watched text is not one token, or if there is no such position.
    """
    prompt_ids = encode_prompt(tokenizer, prompt)
    _require_room(model, len(prompt_ids), settings.max_new_tokens)
    start = _first_column(len(prompt_ids), position)
    watched = [_single_token(tokenizer, text) for text in watch]
    ids: list[int] = generate(model, torch.tensor([prompt_ids]), **settings.model_dump())[0].tolist()
    return _read(Lens(model, ids, ecco_compat), tokenizer, len(prompt_ids), start, watched, top_k)


def read_lens_greedily(
    model: GPT2, tokenizer: Tokenizer, prompt: str, new: int, watch: Sequence[str] = (), top_k: int = 5
) -> LensReading:
    """As `read_lens` for a prompt of any length: its last tokens count, and at most half of the context is for new ones."""
    new = min(new, model.config.n_ctx // 2)
    prompt_ids = encode_prompt(tokenizer, prompt)[new - model.config.n_ctx :]
    watched = [_single_token(tokenizer, text) for text in watch]
    ids: list[int] = generate(model, torch.tensor([prompt_ids]), new, temperature=0.0)[0].tolist()
    return _read(Lens(model, ids), tokenizer, len(prompt_ids), len(prompt_ids), watched, top_k)


def _read(lens: Lens, tokenizer: Tokenizer, prompt_length: int, start: int, watched: list[int], top_k: int) -> LensReading:
    ids: list[int] = lens.tokens.tolist()
    prompt = tokenizer.decode(ids[:prompt_length])
    tokens = [tokenizer.token_bytes.get(token, b"") for token in ids]
    texts = token_texts(tokens)

    def guesses(column: int) -> list[list[Guess]]:
        unfinished = open_bytes(b"".join(tokens[:column]))
        return [
            [Guess(p.token, token_text(tokenizer.token_bytes.get(p.token, b""), unfinished), p.probability) for p in row]
            for row in lens.predictions(column - 1, top_k)
        ]

    return LensReading(
        prompt=prompt,
        continuation=tokenizer.decode(ids)[len(prompt) :],
        before=texts[:start],
        columns=texts[start:],
        predictions=[guesses(column) for column in range(start, len(ids))],
        rankings=lens.rankings(start).tolist(),
        saliency=[lens.saliency(column - 1).tolist() for column in range(start, len(ids))],
        watched=[token_text(tokenizer.token_bytes[token]) for token in watched],
        watched_rankings=lens.watched_rankings(watched, start - 1).tolist() if watched else [[] for _ in range(lens.layers)],
        ecco_compat=lens.ecco_compat,
    )


def save_reading(reading: LensReading, path: Path) -> None:
    """Write the reading as JSON."""
    write_json(path, asdict(reading))


def load_reading(path: Path) -> LensReading:
    """Read what `save_reading` wrote; raises UserError if the file is damaged."""
    try:
        return TypeAdapter(LensReading).validate_json(path.read_bytes())
    except ValidationError:
        raise UserError(f"{path} is no lens reading: delete it, gpt2flow lens --across reads the checkpoints again.") from None


def _require_room(model: GPT2, prompt_length: int, new: int) -> None:
    left = model.config.n_ctx - prompt_length
    if new > left:
        raise UserError(
            f"The prompt has {prompt_length} tokens and the context {model.config.n_ctx}, so the lens can follow "
            f"{max(left, 0)} new ones, not {new}: shorten the prompt or lower max_new_tokens."
        )


def _first_column(prompt_length: int, position: int | None) -> int:
    if position is None:
        return prompt_length
    if not 1 <= position <= prompt_length:
        raise UserError(
            f"Position {position} cannot be looked at: give 1 (the prompt's second token, the first that is guessed) "
            f"to {prompt_length} (the first new one)."
        )
    return position


def _single_token(tokenizer: Tokenizer, text: str) -> int:
    ids = tokenizer.encode(text)
    if len(ids) != 1:
        parts = " + ".join(repr(tokenizer.decode([token])) for token in ids) or "nothing"
        raise UserError(
            f"{text!r} is {len(ids)} tokens ({parts}), and the lens watches single ones: often a space before helps."
        )
    return ids[0]
