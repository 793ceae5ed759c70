"""What a folder with a model holds: which layout, where the weights lie, which sizes. Reads no weights, needs no PyTorch.

Two layouts are known. OpenAI's (also written by nshepperd/gpt-2 and gpt-2-simple): hparams.json and a TensorFlow checkpoint
whose newest prefix stands in the text file `checkpoint`. Hugging Face's, which is also our own: config.json and
model.safetensors, or its shards, or pytorch_model.bin.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath
from typing import Any

from configs.errors import UserError
from gpt2core.model.config import GPT2Config

SAFETENSORS, SHARD_INDEX, PICKLE = "model.safetensors", "model.safetensors.index.json", "pytorch_model.bin"
ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PREFIX = "transformer."
"""What stands before a parameter's name in Hugging Face's files."""

GPT2_ARCHITECTURE: dict[str, Any] = {
    "model_type": "gpt2",
    "activation_function": "gelu_new",
    "layer_norm_epsilon": 1e-5,
    "scale_attn_weights": True,
    "scale_attn_by_inverse_layer_idx": False,
    "add_cross_attention": False,
    "tie_word_embeddings": True,
    "n_inner": None,
    "quantization_config": None,
}
"""Keys of a Hugging Face config that decide what is computed, with the only value that is GPT-2; absent means this value."""


@dataclass(frozen=True)
class OpenAIFolder:
    """OpenAI's layout; `prefix` is the path of the newest checkpoint without its endings."""

    config: GPT2Config
    prefix: Path


@dataclass(frozen=True)
class HuggingFaceFolder:
    """Hugging Face's layout; `files` hold the weights, all safetensors or one pytorch_model.bin.

    `adapted`: beside them lie peft's adapters, which belong to the model.
    """

    config: GPT2Config
    files: tuple[Path, ...]
    adapted: bool = False


def read_config(path: str | Path) -> GPT2Config:
    """Sizes of the model in a folder of any known layout; raises UserError where there is none or it is not a GPT-2."""
    return recognise(path).config


def weight_files(path: str | Path) -> list[Path]:
    """The files that hold the weights; raises UserError as `recognise` does."""
    found = recognise(path)
    if isinstance(found, HuggingFaceFolder):
        return [*found.files, *([Path(path) / ADAPTER_WEIGHTS] if found.adapted else [])]
    return sorted(found.prefix.parent.glob(f"{found.prefix.name}.data-*"))


def recognise(path: str | Path) -> OpenAIFolder | HuggingFaceFolder:
    """Find out what a folder holds; raises UserError where files are missing or the model is not a GPT-2."""
    folder = Path(path)
    if not folder.is_dir():
        problem = "is a file" if folder.is_file() else "does not exist"
        raise UserError(f"{folder} {problem}: give the folder that holds the model.")
    present = [name for name in (SAFETENSORS, SHARD_INDEX, PICKLE) if (folder / name).is_file()]
    if present:
        adapted = (folder / ADAPTER_CONFIG).is_file()
        return HuggingFaceFolder(_read_huggingface_config(folder), _weight_files(folder, present[0]), adapted)
    if (folder / "checkpoint").is_file() or (folder / "hparams.json").is_file():
        return OpenAIFolder(_read_hparams(folder), _newest_prefix(folder))
    if (folder / ADAPTER_CONFIG).is_file():
        raise UserError(f"{folder} has adapters and no base model: put their base's config.json and model.safetensors there.")
    if (folder / "config.json").is_file():
        raise UserError(f"{folder} has config.json but no weights: put model.safetensors beside it.")
    raise UserError(
        f"{folder} holds no model: expected config.json with model.safetensors (Hugging Face, gpt2flow), "
        "or hparams.json with a TensorFlow checkpoint (OpenAI)."
    )


def _weight_files(folder: Path, found: str) -> tuple[Path, ...]:
    if found != SHARD_INDEX:
        return (folder / found,)
    index = folder / SHARD_INDEX
    names = _read_object(index).get("weight_map")
    if not isinstance(names, dict) or not all(isinstance(name, str) for name in names.values()) or not names:
        raise UserError(f"{index} has no weight_map that names the shards: fetch the model again.")
    shards = sorted(set(names.values()))
    for name in shards:
        if Path(name).name != name or not (folder / name).is_file():
            raise UserError(f"{index} names the shard {name}, which is not in the folder: fetch the model again.")
    return tuple(folder / name for name in shards)


def _newest_prefix(folder: Path) -> Path:
    """The prefix that `checkpoint` names, in this folder: an absolute path is from the machine that trained."""
    file = folder / "checkpoint"
    if not file.is_file():
        raise UserError(f'{file} is missing: write the line model_checkpoint_path: "PREFIX" into it, for PREFIX.index.')
    named = re.search(r'^model_checkpoint_path:\s*"(.+)"', _read_text(file), re.MULTILINE)
    if named is None:
        raise UserError(f'{file} names no checkpoint: write the line model_checkpoint_path: "PREFIX" into it.')
    return folder / PureWindowsPath(named[1]).name


def _read_hparams(folder: Path) -> GPT2Config:
    file = folder / "hparams.json"
    if not file.is_file():
        raise UserError(f"{file} is missing: copy hparams.json, encoder.json and vocab.bpe from the folder of its base model.")
    hparams = _read_object(file)
    return _config(file, lambda field: hparams.get(field))


def _read_huggingface_config(folder: Path) -> GPT2Config:
    file = folder / "config.json"
    if not file.is_file():
        raise UserError(f"{file} is missing: copy it from where the weights came from.")
    values = _read_object(file)
    _require_gpt2(file, values)
    names = {"n_vocab": "vocab_size", "n_ctx": "n_positions"}
    return _config(file, lambda field: values.get(names.get(field, field), values.get(field)))


def _require_gpt2(file: Path, values: dict[str, Any]) -> None:
    """Refuse whatever would be computed differently from GPT-2."""
    if "model_type" not in values:
        raise UserError(f"{file} has no model_type: only a config of Hugging Face's GPT-2 can be loaded.")
    width = values.get("n_embd")
    for key, expected in GPT2_ARCHITECTURE.items():
        value = values.get(key, expected)
        if value != expected and not (key == "n_inner" and isinstance(width, int) and value == 4 * width):
            raise UserError(f"{file} describes another architecture ({key} is {value!r}): only GPT-2 itself can be loaded.")


def _config(file: Path, value_of: Callable[[str], Any]) -> GPT2Config:
    """Sizes by GPT-2's names, from whatever knows their values."""
    sizes = {field: value_of(field) for field in ("n_vocab", "n_ctx", "n_embd", "n_head", "n_layer")}
    for field, value in sizes.items():
        if type(value) is not int:
            raise UserError(f"{file} gives no whole number for {field}: copy it from where the weights came from.")
    try:
        return GPT2Config(**sizes)
    except UserError as error:
        raise UserError(f"{file} cannot be right: {error}") from error


def _read_object(file: Path) -> dict[str, Any]:
    try:
        values = json.loads(_read_text(file))
    except ValueError as error:
        raise UserError(f"{file} is not valid JSON ({error}): fetch it again.") from error
    if not isinstance(values, dict):
        raise UserError(f"{file} is not a JSON object: fetch it again.")
    return values


def _read_text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{file} is not text: fetch it again.") from error
    except OSError as error:
        raise UserError(f"{file} cannot be read ({error.strerror}): check its permissions.") from error
