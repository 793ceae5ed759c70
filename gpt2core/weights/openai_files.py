"""OpenAI's layout: GPT-2's variables in a TensorFlow checkpoint, with hparams.json and the text file `checkpoint`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from gpt2core.machine.durable import write_json, write_text
from gpt2core.model.gpt2 import GPT2
from gpt2core.weights.tensor_bundle import read_tensor_bundle
from gpt2core.weights.tensor_bundle_writer import write_tensor_bundle
from gpt2core.weights.tensor_files import Readers

NAME = "model.ckpt"


def openai_spelling(parameter: str) -> str:
    """h.0.attn.c_attn.weight -> model/h0/attn/c_attn/w."""
    *modules, kind = parameter.split(".")
    if modules[0] in ("wte", "wpe"):
        return f"model/{modules[0]}"
    letter = "b" if kind == "bias" else "g" if modules[-1].startswith("ln_") else "w"
    return "/".join(["model", *modules, letter]).replace("/h/", "/h", 1)


def read_openai(prefix: Path) -> Readers:
    """The checkpoint's tensors as it spells them; raises UserError where it is damaged."""

    def reader(array: NDArray[Any]) -> Callable[[], Tensor]:
        return lambda: torch.from_numpy(array[0] if array.ndim == 3 else array)  # [1, in, out] -> [in, out]

    return {name: reader(array) for name, array in read_tensor_bundle(prefix).items()}


def write_openai(model: GPT2, folder: Path) -> None:
    """Write the model, float32, as OpenAI's code and its descendants restore it; the vocabulary is written elsewhere."""
    arrays = {openai_spelling(name): _array(name, weight) for name, weight in model.named_parameters()}
    write_tensor_bundle(folder / NAME, arrays)
    write_text(folder / "checkpoint", f'model_checkpoint_path: "{NAME}"\nall_model_checkpoint_paths: "{NAME}"\n')
    sizes = ("n_vocab", "n_ctx", "n_embd", "n_head", "n_layer")
    write_json(folder / "hparams.json", {name: getattr(model.config, name) for name in sizes})


def _array(name: str, weight: Tensor) -> NDArray[Any]:
    array: NDArray[Any] = weight.detach().float().cpu().numpy()
    return array[None] if array.ndim == 2 and not name.startswith(("wte", "wpe")) else array  # [in, out] -> [1, in, out]
