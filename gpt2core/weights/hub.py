"""Finds a base model's folder: a path as it is, hub:OWNER/NAME by downloading from the Hugging Face Hub."""

from __future__ import annotations

import re
from pathlib import Path

from configs.errors import UserError
from gpt2core.weights.model_folder import is_model_path

PATTERNS = [
    "config.json",
    "model.safetensors",
    "model.safetensors.index.json",
    "model-*.safetensors",
    "tokenizer.json",
    "vocab.json",
    "merges.txt",
]
LOCAL_ALTERNATIVE = "or give a local folder with OpenAI's or Hugging Face's files"


def find_base_model(reference: str) -> Path:
    """The local folder or file of a base model; hub:OWNER/NAME is downloaded into the Hub's cache, or found there.

    Raises UserError where nothing has that name or the download is not possible.
    """
    if reference.startswith("hub:"):
        return _download(reference.removeprefix("hub:"))
    path = Path(reference).expanduser()
    if not is_model_path(path):
        raise UserError(f"The base model {reference} is not a folder here: give an existing one or hub:OWNER/NAME.")
    return path


def _download(repository: str) -> Path:
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repository):
        raise UserError(f"hub:{repository} names no repository: write hub:OWNER/NAME, such as hub:openai-community/gpt2.")
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise UserError(
            f"hub:{repository} needs the library huggingface_hub: pip install 'gpt2flow[hub]', {LOCAL_ALTERNATIVE}."
        ) from error
    try:
        return Path(snapshot_download(repository, allow_patterns=PATTERNS))
    except Exception as error:  # the library's own errors and those of whichever HTTP client it uses
        raise UserError(
            f"hub:{repository} cannot be downloaded ({_reason(error)}): check the name and the network, {LOCAL_ALTERNATIVE}."
        ) from error


def _reason(error: Exception) -> str:
    """The first line of what the library says, or the kind of error."""
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".:") if lines else type(error).__name__
