"""nanoGPT's checkpoints, ckpt.pt, read and written.

They hold GPT-2's tensors with dense weights transposed ([out, in]), perhaps a vocabulary padded to 50,304 rows, which stay,
and perhaps no biases, which is what biases of 0 are. nanoGPT's model has had PyTorch's exact GELU since 17 May 2023 (commit
594068e), and files do not say which one they were trained with; so only one is read that says it has GPT-2's, as those written
here do. Source: karpathy/nanoGPT, model.py and train.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from configs.errors import UserError
from gpt2core.machine.durable import named_write_errors
from gpt2core.model.config import GPT2Config
from gpt2core.model.gpt2 import GPT2
from gpt2core.weights.model_folder import PREFIX, sizes_by_name
from gpt2core.weights.pickled_tensors import read_pickled, require_tensors
from gpt2core.weights.tensor_files import Readers

COMPILED = "_orig_mod."
ACTIVATION, TANH_GELU = "activation_function", "gelu_new"
SIZES = {"n_vocab": "vocab_size", "n_ctx": "block_size"}
MODEL_ARGUMENTS = {"n_layer", "n_head", "n_embd", "block_size", "bias", "vocab_size", "dropout"}
DENSE = ("c_attn.weight", "c_proj.weight", "c_fc.weight")


def read_nanogpt_config(file: Path, *, tanh_gelu: bool = False) -> GPT2Config:
    """Sizes of the model in a checkpoint; raises UserError by the first thing that is not GPT-2's.

    `tanh_gelu` says that it has GPT-2's activation though it does not say so itself.
    """
    content = _content(file)
    arguments = content["model_args"]
    if unknown := sorted(map(str, arguments.keys() - MODEL_ARGUMENTS)):
        raise UserError(f"{file} is not of nanoGPT itself (model_args has {unknown[0]}): only GPT-2 itself can be loaded.")
    config = sizes_by_name(file, lambda field: arguments.get(SIZES.get(field, field)))
    if content.get(ACTIVATION) != TANH_GELU and not tanh_gelu:
        raise UserError(
            f"{file} does not say that it was trained with GPT-2's GELU, and nanoGPT has had the exact one since May 2023: if "
            "it is older, or near enough for you, give it to gpt2flow convert with --tanh_gelu."
        )
    return config


def read_nanogpt(file: Path, config: GPT2Config) -> Readers:
    """The checkpoint's tensors by their names in the model, turned as GPT-2 has them; biases that it lacks are 0."""
    content = _content(file)
    tensors = {_plain(name): tensor for name, tensor in require_tensors(content["model"], f"model of {file}").items()}
    readers: dict[str, Any] = {name: (tensor.t if name.endswith(DENSE) else tensor.detach) for name, tensor in tensors.items()}
    if content["model_args"].get("bias") is False:
        with torch.device("meta"):
            shapes = {name: parameter.shape for name, parameter in GPT2(config).named_parameters() if name.endswith(".bias")}
        readers |= {name: partial(torch.zeros, shape) for name, shape in shapes.items() if name not in tensors}
    return readers


def write_nanogpt(model: GPT2, file: Path) -> None:
    """Write a checkpoint that nanoGPT's train.py resumes and sample.py reads, with an optimizer that has not done a step."""
    config = model.config
    tensors = {PREFIX + name: _turned(name, weight) for name, weight in model.named_parameters()}
    content = {
        "model": {**tensors, "lm_head.weight": tensors[f"{PREFIX}wte.weight"]},
        "optimizer": _fresh_optimizer(tensors),
        "model_args": {
            **{key: getattr(config, key) for key in ("n_layer", "n_head", "n_embd", "dropout")},
            "block_size": config.n_ctx,
            "vocab_size": config.n_vocab,
            "bias": True,
        },
        "iter_num": 0,
        "best_val_loss": 1e9,
        "config": {},
        ACTIVATION: TANH_GELU,
    }
    with named_write_errors(file):
        torch.save(content, file)


def _content(file: Path) -> Mapping[str, Any]:
    content = read_pickled(file)
    if not isinstance(content, Mapping) or not isinstance(content.get("model_args"), Mapping) or "model" not in content:
        raise UserError(f"{file} is no checkpoint of nanoGPT (no model with model_args): give nanoGPT's ckpt.pt.")
    return content


def _plain(name: str) -> str:
    return name.removeprefix(COMPILED).removeprefix(PREFIX)


def _turned(name: str, weight: Tensor) -> Tensor:
    values = weight.detach().float()
    return values.t().contiguous() if name.endswith(DENSE) else values


def _fresh_optimizer(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """As nanoGPT groups its parameters, with its own defaults: matrices decay, the others do not."""
    groups: list[dict[str, Any]] = [
        {"params": [tensor for tensor in tensors.values() if tensor.ndim > 1]},
        {"params": [tensor for tensor in tensors.values() if tensor.ndim == 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=6e-4, betas=(0.9, 0.95), weight_decay=0.1).state_dict()
