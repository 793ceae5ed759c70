"""How a checkpoint stores weights: what training changes in each checkpoint, what it leaves alone once a run.

Everything trained: model.safetensors. A part trained: two shards with Hugging Face's index. Adapters trained: the base model's
model.safetensors with peft's two files beside it. The frozen file is a hard link to one that lies beside the checkpoints, so
every checkpoint is a whole model folder, and the last one that is removed takes nothing from the others.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from configs.errors import UserError
from configs.schema import LoraSettings
from gpt2core.machine.durable import link_file, write_json
from gpt2core.weights.adapter_files import model_name, save_adapters
from gpt2core.weights.loading import load_model
from gpt2core.weights.model_folder import ADAPTER_CONFIG, ADAPTER_WEIGHTS, PREFIX, SAFETENSORS, SHARD_INDEX, weight_files
from gpt2core.weights.tensor_files import Reader, Readers, open_tensors, save_tensors

FROZEN = "frozen.safetensors"
FROZEN_SHARD, TRAINED_SHARD = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"


def write_weights(folder: Path, weights: Mapping[str, Tensor], frozen: Mapping[str, Tensor], lora: LoraSettings | None) -> None:
    """Write a checkpoint's weights, float32, into its folder; the frozen ones are linked to a file beside the folder.

    `weights` and `frozen` have their names in the model; with `lora` the former are adapters.
    """
    trained, kept = stored_names(weights), stored_names(frozen)
    if not frozen:
        save_tensors(trained, folder / SAFETENSORS)
    elif lora:
        link_file(_stored_once(folder.parent / FROZEN, kept), folder / SAFETENSORS)
        save_adapters(weights, lora, folder)
    else:
        link_file(_stored_once(folder.parent / FROZEN, kept), folder / FROZEN_SHARD)
        save_tensors(trained, folder / TRAINED_SHARD)
        shards = {**dict.fromkeys(kept, FROZEN_SHARD), **dict.fromkeys(trained, TRAINED_SHARD)}
        size = sum(tensor.nbytes for tensor in (*kept.values(), *trained.values()))
        write_json(folder / SHARD_INDEX, {"metadata": {"total_size": size}, "weight_map": shards})


def read_weights(folder: Path) -> Readers:
    """Readers of all weights of a checkpoint, adapters beside those that they adapt, by their names in the model."""
    found: dict[str, Reader] = {}
    for file in weight_files(folder):
        adapters = file.name == ADAPTER_WEIGHTS
        for name, reader in open_tensors(file).items():
            found[model_name(name) if adapters else name.removeprefix(PREFIX)] = reader
    return found


def export_model(checkpoint: Path, folder: Path, *, merge: bool) -> None:
    """Write a checkpoint's model as a whole folder of its own: config, weights in one file, vocabulary.

    Adapters are merged into the weights, or stay beside those of the base model where `merge` is false.
    """
    files, folder_files = weight_files(checkpoint), [checkpoint / "config.json", checkpoint / "tokenizer.json"]
    adapted = files[-1].name == ADAPTER_WEIGHTS
    if adapted and not merge:
        folder_files += [*files, checkpoint / ADAPTER_CONFIG]
    elif len(files) == 1:
        folder_files += files
    else:
        model = load_model(checkpoint)
        save_tensors(stored_names({name: weight.detach() for name, weight in model.named_parameters()}), folder / SAFETENSORS)
    for file in folder_files:
        shutil.copyfile(file, folder / file.name)


def stored_names(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights as their files have them: float32, under Hugging Face's names."""
    return {PREFIX + name: weight.float() for name, weight in weights.items()}


def _stored_once(file: Path, tensors: Mapping[str, Tensor]) -> Path:
    """The file that holds exactly these tensors; written if it is not there, does not hold them or is damaged."""
    if not _holds(file, tensors):
        save_tensors(tensors, file)
    return file


def _holds(file: Path, tensors: Mapping[str, Tensor]) -> bool:
    if not file.is_file():
        return False
    try:
        stored = open_tensors(file)
    except UserError:
        return False
    return stored.keys() == tensors.keys() and all(
        torch.equal(stored[name]().view(torch.uint8), tensor.cpu().view(torch.uint8)) for name, tensor in tensors.items()
    )
