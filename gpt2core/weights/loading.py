"""Loads a GPT-2 from any known layout and saves it as a Hugging Face folder, which is our own layout too.

Tensors are read, checked and put into the model one by one, so big weights are in memory once. Nothing that a file
contains is executed. Which layout a folder has is found out in `gpt2core.weights.model_folder`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from configs.errors import UserError
from gpt2core.machine.durable import named_write_errors, write_json
from gpt2core.model.config import GPT2Config
from gpt2core.model.gpt2 import GPT2
from gpt2core.weights import gguf_files, openai_files
from gpt2core.weights.adapter_files import with_adapters
from gpt2core.weights.model_folder import (
    GPT2_ARCHITECTURE,
    PREFIX,
    SAFETENSORS,
    AdapterFolder,
    Found,
    GGUFFile,
    HuggingFaceFolder,
    NanoGPTFile,
    OpenAIFolder,
    read_config,
    recognise,
)
from gpt2core.weights.nanogpt_files import read_nanogpt
from gpt2core.weights.pickled_tensors import read_pickled, require_tensors
from gpt2core.weights.tensor_files import Reader, Readers, open_tensors, save_tensors

__all__ = ["load_model", "read_config", "save_config", "save_model", "save_tensors", "save_weights"]

HEAD, WTE = "lm_head.weight", "wte.weight"
MASK_BUFFERS = re.compile(r"h\.\d+\.attn\.(masked_)?bias")  # constants that old Hugging Face files carry


@dataclass(frozen=True)
class StoredWeights:
    """Tensors as their files spell them, each read when asked for and then perhaps still part of the mapped file.

    `origin` is the folder or checkpoint to name in errors; `spelling` turns a parameter's name into the files'.
    """

    origin: Path
    tensors: Readers
    spelling: Callable[[str], str] = str


def load_model(
    path: str | Path,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    *,
    dropout: float = 0.0,
    n_ctx: int | None = None,
    base: str | Path | None = None,
    tanh_gelu: bool = False,
) -> GPT2:
    """The model in a folder or file of any known layout, recognised by what is in it.

    `dropout` is for training; `n_ctx` keeps only the first positions; `base` and `tanh_gelu` are as in `recognise`. Raises
    UserError where files are missing or damaged, where the architecture is not GPT-2's, and where a tensor is missing, unknown,
    misshapen or not finite.
    """
    found = recognise(path, base=base, tanh_gelu=tanh_gelu)
    config = replace(found.config, dropout=dropout, n_ctx=n_ctx or found.config.n_ctx)
    if config.n_ctx > found.config.n_ctx:
        raise UserError(f"n_ctx {n_ctx} is longer than the {found.config.n_ctx} positions of {path}: give at most that.")
    stored = _stored(found)
    _require_plausible_sizes(found, stored)
    with torch.device("meta"):
        whole, model = GPT2(found.config), GPT2(config)
    shapes = {name: parameter.shape for name, parameter in whole.named_parameters()}
    readers, adapters = _by_parameter(stored, shapes), _adapters_of(found)
    if adapters:
        readers = with_adapters(readers, adapters)
    weights = {}
    for name, shape in shapes.items():
        tensor = _checked(stored.origin, stored.spelling(name), readers[name](), shape)
        kept = tensor[: config.n_ctx] if name == "wpe.weight" else tensor
        weights[name] = kept.to(device, dtype, copy=True, memory_format=torch.contiguous_format)
    model.load_state_dict(weights, assign=True)
    return model


def _adapters_of(found: Found) -> Path | None:
    """The folder of the adapters that belong to the model."""
    if isinstance(found, AdapterFolder):
        return found.folder
    return found.files[0].parent if isinstance(found, HuggingFaceFolder) and found.adapted else None


def _require_plausible_sizes(found: Found, stored: StoredWeights) -> None:
    """Refuse a config that asks for more than the files can hold, before anything of that size is made."""
    config, most = found.config, sum(file.stat().st_size for file in found.weight_files)
    width = config.n_embd
    weights = (config.n_vocab + config.n_ctx + 2) * width + config.n_layer * (12 * width + 13) * width
    if weights > most or config.n_layer > len(stored.tensors):
        raise UserError(
            f"The config of {stored.origin} asks for {weights:,} weights in {config.n_layer:,} layers, and its files of "
            f"{most:,} bytes hold {len(stored.tensors)} tensors: they do not belong together."
        )


def _by_parameter(stored: StoredWeights, names: Iterable[str]) -> dict[str, Reader]:
    """The readers by their parameters' names; raises UserError where a tensor is missing or unknown."""
    spelled = {name: stored.spelling(name) for name in names}
    if missing := sorted(set(spelled.values()) - stored.tensors.keys()):
        raise UserError(f"{stored.origin} lacks the tensor {missing[0]} ({len(missing)} in all): fetch the model again.")
    if unknown := sorted(stored.tensors.keys() - spelled.values()):
        raise UserError(
            f"{stored.origin} has the tensor {unknown[0]}, which this GPT-2 does not have: does the config belong to it?"
        )
    return {name: stored.tensors[theirs] for name, theirs in spelled.items()}


def _checked(origin: Path, name: str, tensor: Tensor, shape: torch.Size) -> Tensor:
    if tensor.shape != shape:
        raise UserError(
            f"Tensor {name} of {origin} has the shape {list(tensor.shape)}, and the config asks for {list(shape)}: "
            "they do not belong together."
        )
    if not tensor.is_floating_point():
        raise UserError(f"Tensor {name} of {origin} is of type {tensor.dtype}: only floating-point weights can be loaded.")
    if not tensor.isfinite().all():
        raise UserError(f"Tensor {name} of {origin} holds NaN or infinite values: use an earlier checkpoint.")
    return tensor


def _stored(found: Found) -> StoredWeights:
    """The weights of a layout, those of adapters apart from their base."""
    match found:
        case AdapterFolder():
            return _stored(found.base)
        case OpenAIFolder():
            return StoredWeights(found.prefix, openai_files.read_openai(found.prefix), openai_files.openai_spelling)
        case NanoGPTFile():
            return StoredWeights(found.file, _one_head(found.file, read_nanogpt(found.file, found.config)))
        case GGUFFile():
            return StoredWeights(found.file, gguf_files.read_gguf(found.file), gguf_files.gguf_spelling)
        case HuggingFaceFolder():
            return _huggingface_weights(found)


def _huggingface_weights(found: HuggingFaceFolder) -> StoredWeights:
    tensors: dict[str, Reader] = {}
    for file in found.files:
        read = _open_pickle(file) if file.suffix == ".bin" else open_tensors(file)
        named = {name.removeprefix(PREFIX): reader for name, reader in read.items()}
        if twice := sorted(tensors.keys() & named.keys()):
            raise UserError(f"{file} has the tensor {twice[0]}, which another file has as well: fetch the model again.")
        tensors |= named
    return StoredWeights(found.files[0].parent, _one_head(found.files[0].parent, tensors))


def _open_pickle(file: Path) -> Readers:
    return {name: tensor.detach for name, tensor in require_tensors(read_pickled(file), str(file)).items()}


def _one_head(origin: Path, tensors: Readers) -> Readers:
    """The tensors without the output head, which must be the token embedding, and without the constants of attention."""
    head, embedding = tensors.get(HEAD), tensors.get(WTE)
    if head is not None and embedding is not None and not _same_bits(head(), embedding()):
        raise UserError(f"{origin} has an output head {HEAD} of its own: in GPT-2 it is the token embedding.")
    return {name: reader for name, reader in tensors.items() if name != HEAD and not MASK_BUFFERS.fullmatch(name)}


def _same_bits(one: Tensor, other: Tensor) -> bool:
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    return torch.equal(one.contiguous().view(torch.uint8), other.contiguous().view(torch.uint8))


def save_model(model: GPT2, folder: str | Path, *, end_of_text: int | None = None) -> None:
    """Write config.json and model.safetensors (float32), which transformers' GPT2LMHeadModel loads as they are.

    Equal weights give equal bytes. `end_of_text` is the id at which other programs stop generating. Each file is replaced
    as a whole; raises UserError where the disk is full or the folder may not be written.
    """
    weights = {name: weight.detach() for name, weight in model.named_parameters()}
    save_weights(model.config, weights, Path(folder), end_of_text=end_of_text)


def save_weights(config: GPT2Config, weights: Mapping[str, Tensor], folder: Path, *, end_of_text: int | None = None) -> None:
    """As `save_model`, from the parameters by their names in the model."""
    with named_write_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    save_tensors({PREFIX + name: weight.float() for name, weight in weights.items()}, folder / SAFETENSORS)
    save_config(config, folder, end_of_text=end_of_text)


def save_config(config: GPT2Config, folder: Path, *, end_of_text: int | None = None) -> None:
    """Write config.json as Hugging Face's GPT-2 has it."""
    values: dict[str, Any] = {
        "architectures": ["GPT2LMHeadModel"],
        **{key: value for key, value in GPT2_ARCHITECTURE.items() if value is not None},
        "vocab_size": config.n_vocab,
        "n_positions": config.n_ctx,
        "n_embd": config.n_embd,
        "n_head": config.n_head,
        "n_layer": config.n_layer,
        "attn_pdrop": config.dropout,
        "embd_pdrop": config.dropout,
        "resid_pdrop": config.dropout,
        "bos_token_id": end_of_text,
        "eos_token_id": end_of_text,
        "dtype": "float32",
    }
    write_json(folder / "config.json", values)
