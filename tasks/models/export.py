"""Writing a model where other programs find it: a folder in Hugging Face's layout."""

from __future__ import annotations

from pathlib import Path

from configs.errors import UserError
from gpt2core.checkpoints.weights import export_model
from gpt2core.machine.durable import publish_folder
from gpt2core.text.tokenizer import load_tokenizer
from gpt2core.weights.loading import load_model, save_model
from gpt2core.weights.model_folder import ADAPTER_CONFIG, SAFETENSORS
from tasks.runs.models import resolve_model


def export(reference: str | None, folder: Path, *, merge: bool) -> None:
    """Write the model called `reference` (see `resolve_model`) with its vocabulary as a new folder, of safetensors and JSON.

    Adapters are merged into the weights, or without `merge` stay beside their base model's. Raises UserError where the folder
    is there already, or where there are no adapters to keep apart.
    """
    if folder.exists():
        raise UserError(f"{folder} is there already: give the name of a new folder.")
    source = resolve_model(reference)
    tokenizer, apart = load_tokenizer(source), (SAFETENSORS, ADAPTER_CONFIG, "tokenizer.json")
    if not merge and not all((source / name).is_file() for name in apart):
        raise UserError(f"{source} has no adapters of gpt2flow to be kept apart: leave --no-merge out.")
    with publish_folder(folder) as made:
        if merge:
            save_model(load_model(source), made, end_of_text=tokenizer.end_of_text)
            tokenizer.save(made)
        else:
            export_model(source, made, merge=False)
