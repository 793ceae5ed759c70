"""Complete prompts with a model from a run, a folder or the registry."""

from __future__ import annotations

from collections.abc import Iterator

from configs.schema import SampleSettings
from gpt2core.sampling import generate_text
from gpt2core.tokenizer import load_tokenizer
from gpt2core.weights import load_model
from tasks.model_sources import resolve_model


def complete(reference: str | None, prompts: list[str], settings: SampleSettings) -> Iterator[str]:
    """Yield each prompt with its completion; raises UserError for an unknown model or impossible settings."""
    folder = resolve_model(reference)
    model, tokenizer = load_model(folder), load_tokenizer(folder)
    for prompt in prompts:
        yield prompt + generate_text(model, tokenizer, prompt, settings)
