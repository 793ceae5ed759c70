"""Mending frozen weights: all checkpoints of a run share one file of them, and the base model has them too."""

from __future__ import annotations

from pathlib import Path

from gpt2core.checkpoints.checkpoint import find_checkpoints, recorded_hashes
from gpt2core.checkpoints.weights import FROZEN, FROZEN_SHARD, stored_names
from gpt2core.machine.durable import file_hash, link_file
from gpt2core.model.gpt2 import GPT2
from gpt2core.weights.model_folder import SAFETENSORS
from gpt2core.weights.tensor_files import save_tensors


def mend_frozen_weights(folder: Path, model: GPT2) -> bool:
    """Replace damaged frozen weights in the checkpoints in `folder` by those of the model that training began with.

    Only what then has the hash in a checkpoint's manifest is put there. Returns whether anything was mended.
    """
    frozen = {name: parameter.detach() for name, parameter in model.named_parameters() if not parameter.requires_grad}
    if not frozen:
        return False
    mended, source = False, folder / f"mending-{FROZEN}"
    save_tensors(stored_names(frozen), source)
    expected = file_hash(source)
    for checkpoint in find_checkpoints(folder):
        for name, recorded in recorded_hashes(checkpoint).items():
            file = checkpoint.path / name
            if name not in (SAFETENSORS, FROZEN_SHARD) or recorded != expected:
                continue
            if not file.is_file() or file_hash(file) != expected:
                replacement = file.with_name(f"{name}.tmp")
                link_file(source, replacement)
                replacement.replace(file)
                mended = True
    source.unlink()
    return mended
