"""A prompt, its continuation and what every layer made of them, as plain values for pages, pictures and files."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from configs.errors import UserError
from configs.schema import SampleSettings
from gpt2core.lens import Lens
from gpt2core.model import GPT2
from gpt2core.sampling import generate
from gpt2core.tokenizer import Tokenizer

VISIBLE = str.maketrans({"\n": "⏎", "\t": "⇥", "\r": "␍"})


@dataclass(frozen=True)
class Guess:
    """A token as text, and the probability that a layer gives it."""

    text: str
    probability: float


@dataclass(frozen=True)
class LensReading:
    """Layer 0 is the embedding. Matrices are [layer][column]; columns are the generated tokens unless said otherwise."""

    prompt: list[str]
    """The prompt's tokens as text."""
    generated: list[str]
    """The tokens that the model wrote after it."""
    predictions: list[list[Guess]]
    """[layer][rank]: what each layer would say after the prompt."""
    rankings: list[list[int]]
    """Rank, 1 is best, of each generated token at each layer."""
    guesses: list[list[Guess]]
    """The likeliest token of each layer where each generated token stands."""
    saliency: list[list[float]]
    """[generated token][token before it]: shares that sum to 1."""
    watched: list[str]
    watched_rankings: list[list[int]]
    """[layer][watched token]: its rank as the token after the prompt."""
    ecco_compat: bool

    @property
    def layer_names(self) -> list[str]:
        """Names of the rows."""
        return ["embedding", *(f"layer {layer}" for layer in range(1, len(self.predictions)))]


def read_lens(
    model: GPT2,
    tokenizer: Tokenizer,
    prompt: str,
    settings: SampleSettings,
    watch: list[str] | None = None,
    top_k: int = 10,
    ecco_compat: bool = False,
) -> LensReading:
    """Continue the prompt by `settings.max_new_tokens` tokens and read every layer along the way.

    Raises UserError if both together do not fit the context, or if a watched text is not one token.
    """
    prompt_ids = tokenizer.encode(prompt) or [tokenizer.end_of_text]
    room = model.config.n_ctx - len(prompt_ids)
    if settings.max_new_tokens > room:
        raise UserError(
            f"The prompt has {len(prompt_ids)} tokens and the context {model.config.n_ctx}, so the lens can follow "
            f"{max(room, 0)} new ones, not {settings.max_new_tokens}: shorten the prompt or lower max_new_tokens."
        )
    watched = [_single_token(tokenizer, text) for text in watch or []]
    ids = generate(model, torch.tensor([prompt_ids]), **settings.model_dump())[0].tolist()
    lens, start = Lens(model, ids, ecco_compat), len(prompt_ids)

    def text(token: int) -> str:
        return tokenizer.token_bytes.get(token, b"").decode("utf-8", errors="replace").translate(VISIBLE)

    def guesses(position: int, count: int) -> list[list[Guess]]:
        rows = lens.predictions(position, count)
        return [[Guess(text(prediction.token), prediction.probability) for prediction in row] for row in rows]

    columns = [guesses(position, 1) for position in range(start - 1, len(ids) - 1)]
    return LensReading(
        prompt=[text(token) for token in prompt_ids],
        generated=[text(token) for token in ids[start:]],
        predictions=guesses(start - 1, top_k),
        rankings=lens.rankings(start).tolist(),
        guesses=[[column[layer][0] for column in columns] for layer in range(lens.layers)],
        saliency=[lens.saliency(position).tolist() for position in range(start - 1, len(ids) - 1)],
        watched=[text(token) for token in watched],
        watched_rankings=lens.watched_rankings(watched, start - 1).tolist() if watched else [[] for _ in range(lens.layers)],
        ecco_compat=ecco_compat,
    )


def _single_token(tokenizer: Tokenizer, text: str) -> int:
    ids = tokenizer.encode(text)
    if len(ids) != 1:
        parts = " + ".join(repr(tokenizer.decode([token])) for token in ids) or "nothing"
        raise UserError(
            f"{text!r} is {len(ids)} tokens ({parts}), and the lens watches single ones: often a space before helps."
        )
    return ids[0]
