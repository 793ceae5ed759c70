"""Loads a GPT-2 from any known layout and saves it as a Hugging Face folder, which is our own layout too.

Tensors are read, checked and put into the model one by one, so big weights are in memory once. Nothing that a file
contains is executed. Which layout a folder has is found out in `gpt2core.weights.model_folder`.
"""

from __future__ import annotations

import pickle
import re
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from configs.errors import UserError
from gpt2core.machine.durable import named_write_errors, write_json
from gpt2core.model.config import GPT2Config
from gpt2core.model.gpt2 import GPT2
from gpt2core.weights.adapter_files import with_adapters
from gpt2core.weights.model_folder import (
    GPT2_ARCHITECTURE,
    PREFIX,
    SAFETENSORS,
    HuggingFaceFolder,
    OpenAIFolder,
    read_config,
    recognise,
)
from gpt2core.weights.tensor_bundle import read_tensor_bundle
from gpt2core.weights.tensor_files import Readers, open_tensors, save_tensors

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
    spelling: Callable[[str], str]


def load_model(
    path: str | Path,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    *,
    dropout: float = 0.0,
    n_ctx: int | None = None,
) -> GPT2:
    """The model in a folder of OpenAI's, Hugging Face's or our own layout, recognised by what is in it.

    `dropout` is for training; `n_ctx` keeps only the first positions. Raises UserError where files are missing or
    damaged, where the architecture is not GPT-2's, and where a tensor is missing, unknown, misshapen or not finite.
    """
    found = recognise(path)
    stored = _openai_weights(found.prefix) if isinstance(found, OpenAIFolder) else _huggingface_weights(Path(path), found)
    config = replace(found.config, dropout=dropout, n_ctx=n_ctx or found.config.n_ctx)
    if config.n_ctx > found.config.n_ctx:
        raise UserError(f"n_ctx {n_ctx} is longer than the {found.config.n_ctx} positions of {path}: give at most that.")
    with torch.device("meta"):
        base, model = GPT2(found.config), GPT2(config)
    model.load_state_dict(_read_all(stored, base, config.n_ctx, torch.device(device), dtype), assign=True)
    return model


def _read_all(stored: StoredWeights, base: GPT2, n_ctx: int, device: torch.device, dtype: torch.dtype) -> dict[str, Tensor]:
    """The parameters of `base` by name, checked, with positions cut to `n_ctx`."""
    shapes = {name: parameter.shape for name, parameter in base.named_parameters()}
    expected = {stored.spelling(name) for name in shapes}
    if missing := sorted(expected - stored.tensors.keys()):
        raise UserError(f"{stored.origin} lacks the tensor {missing[0]} ({len(missing)} in all): fetch the model again.")
    if unknown := sorted(stored.tensors.keys() - expected):
        raise UserError(f"{stored.origin} has the tensor {unknown[0]}, which this GPT-2 has not: does the config belong to it?")
    weights = {}
    for name, shape in shapes.items():
        tensor = _checked(stored.origin, stored.spelling(name), stored.tensors[stored.spelling(name)](), shape)
        kept = tensor[:n_ctx] if name == "wpe.weight" else tensor
        weights[name] = kept.to(device, dtype, copy=True, memory_format=torch.contiguous_format)
    return weights


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


def _openai_weights(prefix: Path) -> StoredWeights:
    def reader(array: NDArray[Any]) -> Callable[[], Tensor]:
        return lambda: torch.from_numpy(array[0] if array.ndim == 3 else array)  # [1, in, out] -> [in, out]

    arrays = read_tensor_bundle(prefix)
    return StoredWeights(prefix, {name: reader(array) for name, array in arrays.items()}, _openai_spelling)


def _openai_spelling(parameter: str) -> str:
    """h.0.attn.c_attn.weight -> model/h0/attn/c_attn/w."""
    *modules, kind = parameter.split(".")
    if modules[0] in ("wte", "wpe"):
        return f"model/{modules[0]}"
    letter = "b" if kind == "bias" else "g" if modules[-1].startswith("ln_") else "w"
    return "/".join(["model", *modules, letter]).replace("/h/", "/h", 1)


def _huggingface_weights(folder: Path, found: HuggingFaceFolder) -> StoredWeights:
    tensors: dict[str, Callable[[], Tensor]] = {}
    for file in found.files:
        read = _open_pickle(file) if file.suffix == ".bin" else open_tensors(file)
        tensors |= {name.removeprefix(PREFIX): reader for name, reader in read.items()}
    head = tensors.pop(HEAD, None)
    if head is not None and WTE in tensors and not _same_bits(head(), tensors[WTE]()):
        raise UserError(f"{folder} has an output head {HEAD} of its own: in GPT-2 it is the token embedding.")
    kept = {name: reader for name, reader in tensors.items() if not MASK_BUFFERS.fullmatch(name)}
    return StoredWeights(folder, with_adapters(kept, folder) if found.adapted else kept, lambda parameter: parameter)


def _same_bits(one: Tensor, other: Tensor) -> bool:
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    return torch.equal(one.contiguous().view(torch.uint8), other.contiguous().view(torch.uint8))


def _open_pickle(file: Path) -> Readers:
    """The tensors of a pytorch_model.bin, by an unpickler that knows tensors only and calls nothing else."""
    try:
        content = torch.load(file, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(file))
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError) as error:
        raise UserError(
            f"{file} is damaged or holds more than tensors, and nothing in it was run: convert it to {SAFETENSORS}."
        ) from error
    if not isinstance(content, Mapping) or not all(isinstance(tensor, Tensor) for tensor in content.values()):
        raise UserError(f"{file} is not a plain table of tensors: convert it to {SAFETENSORS}.")
    return {str(name): tensor.detach for name, tensor in content.items()}


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
