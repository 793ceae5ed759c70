"""Weights in GGUF, the files of llama.cpp and Ollama, read and written through the library `gguf`.

Only float32, float16 and bfloat16 are read, since quantised weights are no longer the model's. Weights are written as float32.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from configs.errors import UserError
from gpt2core.machine.durable import named_write_errors
from gpt2core.model.config import GPT2Config
from gpt2core.model.gpt2 import GPT2
from gpt2core.text.gguf_vocabulary import gguf_value, open_gguf, require_gguf
from gpt2core.weights.model_folder import sizes_by_name
from gpt2core.weights.tensor_files import Readers

if TYPE_CHECKING:
    from gguf import GGUFWriter

ARCHITECTURE = "gpt2"
TOP = {"wte": "token_embd", "wpe": "position_embd", "ln_f": "output_norm"}
BLOCK = {
    "ln_1": "attn_norm",
    "attn.c_attn": "attn_qkv",
    "attn.c_proj": "attn_output",
    "ln_2": "ffn_norm",
    "mlp.c_fc": "ffn_up",
    "mlp.c_proj": "ffn_down",
}
HEAD = "output.weight"
SIZES = {
    "n_ctx": "context_length",
    "n_embd": "embedding_length",
    "n_head": "attention.head_count",
    "n_layer": "block_count",
}


def gguf_spelling(parameter: str) -> str:
    """h.0.attn.c_attn.weight -> blk.0.attn_qkv.weight."""
    module, _, kind = parameter.rpartition(".")
    if not module.startswith("h."):
        return f"{TOP[module]}.{kind}"
    _, layer, name = module.split(".", 2)
    return f"blk.{layer}.{BLOCK[name]}.{kind}"


def read_gguf_config(file: Path) -> GPT2Config:
    """Sizes of the model in the file; raises UserError by the first thing that is not GPT-2's."""
    reader = open_gguf(file)
    values = {key: gguf_value(reader, key) for key in reader.fields if key.startswith((f"{ARCHITECTURE}.", "general.arch"))}
    if (found := values.get("general.architecture")) != ARCHITECTURE:
        raise UserError(f"{file} holds a model of the architecture {found!r}: only GPT-2 itself can be loaded.")
    embedding = next((tensor for tensor in reader.tensors if tensor.name == gguf_spelling("wte.weight")), None)
    sizes = {ours: values.get(f"{ARCHITECTURE}.{theirs}") for ours, theirs in SIZES.items()}
    sizes["n_vocab"] = int(embedding.shape[-1]) if embedding is not None else None
    config = sizes_by_name(file, sizes.get)
    expected = {"feed_forward_length": 4 * config.n_embd, "attention.layer_norm_epsilon": float(np.float32(1e-5))}
    for key, value in expected.items():
        if (found := values.get(f"{ARCHITECTURE}.{key}", value)) != value:
            raise UserError(f"{file} describes another architecture ({key} is {found!r}): only GPT-2 itself can be loaded.")
    return config


def read_gguf(file: Path) -> Readers:
    """The file's tensors as it spells them, turned as GPT-2 has them; raises UserError where one is quantised."""
    readers = {tensor.name: partial(_read, tensor, _type_of(file, tensor)) for tensor in open_gguf(file).tensors}
    head, embedding = readers.pop(HEAD, None), readers.get(gguf_spelling("wte.weight"))
    if head and embedding and not torch.equal(head(), embedding()):
        raise UserError(f"{file} has an output head {HEAD} of its own: in GPT-2 it is the token embedding.")
    return readers


def write_gguf(model: GPT2, file: Path, describe: Callable[[GGUFWriter], None]) -> None:
    """Write the model as float32, with the vocabulary that `describe` adds."""
    gguf, config = require_gguf(file), model.config
    with named_write_errors(file):
        writer = gguf.GGUFWriter(file, ARCHITECTURE)
        writer.add_context_length(config.n_ctx)
        writer.add_embedding_length(config.n_embd)
        writer.add_block_count(config.n_layer)
        writer.add_feed_forward_length(4 * config.n_embd)
        writer.add_head_count(config.n_head)
        writer.add_layer_norm_eps(1e-5)
        writer.add_file_type(gguf.LlamaFileType.ALL_F32)
        describe(writer)
        for name, weight in model.named_parameters():
            writer.add_tensor(gguf_spelling(name), _turned(name, weight.detach().float()).contiguous().numpy())
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()


def _type_of(file: Path, tensor: Any) -> str:
    name: str = tensor.tensor_type.name
    if name not in ("F32", "F16", "BF16"):
        raise UserError(f"{file} holds {tensor.name} quantised ({name}): take the file with weights in F32, F16 or BF16.")
    return name


def _read(tensor: Any, kind: str) -> Tensor:
    values = torch.from_numpy(np.array(tensor.data))
    if kind == "BF16":  # which NumPy does not know: the library gives bytes
        values = values.view(torch.bfloat16)
    return _turned(tensor.name, values)


def _turned(name: str, weight: Tensor) -> Tensor:
    """Dense weights are [out, in] there and [in, out] here; embeddings are the same."""
    embedding = name.startswith(("wte", "wpe", "token_embd", "position_embd"))
    return weight.t() if weight.ndim == 2 and not embedding else weight
