"""Adapters as the library `peft` stores them, in adapter_config.json and adapter_model.safetensors, written and merged."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from configs.errors import UserError
from configs.schema import LoraSettings
from gpt2core.machine.durable import write_json
from gpt2core.model.lora import merged_weight
from gpt2core.weights.model_folder import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from gpt2core.weights.tensor_files import Reader, Readers, open_tensors, save_tensors

PREFIX, SUFFIX = "base_model.model.transformer.", ".weight"

SUPPORTED: dict[str, Any] = {
    "peft_type": "LORA",
    "bias": "none",
    "lora_bias": False,
    "use_dora": False,
    "use_rslora": False,
    "rank_pattern": {},
    "alpha_pattern": {},
    "modules_to_save": None,
    "layer_replication": None,
    "trainable_token_indices": None,
    "target_parameters": None,
}
"""Keys of peft's config that decide what is computed, with the only value that is read here; absent means this value."""


def save_adapters(weights: Mapping[str, Tensor], settings: LoraSettings, folder: Path) -> None:
    """Write the adapters, named as in the model (h.0.attn.c_attn.lora_A), float32, with the config that peft needs."""
    save_tensors({f"{PREFIX}{name}{SUFFIX}": weight.float() for name, weight in weights.items()}, folder / ADAPTER_WEIGHTS)
    values = {
        **SUPPORTED,
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": None,
        "r": settings.rank,
        "lora_alpha": settings.alpha,
        "lora_dropout": settings.dropout,
        "target_modules": settings.targets,
        "fan_in_fan_out": True,
        "inference_mode": True,
    }
    write_json(folder / ADAPTER_CONFIG, values)


def model_name(name: str) -> str:
    """An adapter's name in the model, from its name in peft's file."""
    return name.removeprefix(PREFIX).removesuffix(SUFFIX)


def with_adapters(base: Readers, folder: Path) -> dict[str, Reader]:
    """The base model's tensors, the adapted ones merged with the adapters in `folder` when they are read.

    Raises UserError where the adapters are of another kind or of another model.
    """
    scale, merged = _scale(folder), dict(base)
    adapters = {model_name(name): read for name, read in open_tensors(folder / ADAPTER_WEIGHTS).items()}
    for name in [name for name in adapters if name.endswith(".lora_A")]:
        projection = name.removesuffix(".lora_A")
        weight, other = base.get(f"{projection}.weight"), adapters.pop(f"{projection}.lora_B", None)
        if weight is None or other is None:
            raise UserError(f"{folder / ADAPTER_WEIGHTS} adapts {projection}, which does not fit the model beside it.")
        merged[f"{projection}.weight"] = partial(_read_merged, projection, weight, adapters.pop(name), other, scale)
    if adapters:
        raise UserError(f"{folder / ADAPTER_WEIGHTS} has the tensor {next(iter(adapters))}, which is no low-rank adapter.")
    return merged


def _read_merged(name: str, weight: Reader, lora_a: Reader, lora_b: Reader, scale: float) -> Tensor:
    base, first, second = weight(), lora_a(), lora_b()
    if base.shape != (first.shape[-1], second.shape[0]):
        raise UserError(f"The adapter of {name} is of another size than the model beside it: give the adapter's own base.")
    return merged_weight(base, first, second, scale)


def _scale(folder: Path) -> float:
    file = folder / ADAPTER_CONFIG
    try:
        values = dict(json.loads(file.read_text(encoding="utf-8")))
        scale = float(values["lora_alpha"]) / int(values["r"])
    except (OSError, ValueError, TypeError, KeyError, ZeroDivisionError) as error:
        raise UserError(f"{file} is not a config of low-rank adapters ({error}): fetch the adapters again.") from error
    for key, expected in SUPPORTED.items():
        if values.get(key, expected) != expected:
            raise UserError(f"{file} has {key} {values[key]!r}: only plain LoRA can be loaded; merge the adapters with peft.")
    return scale
