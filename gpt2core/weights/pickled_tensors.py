"""PyTorch's own files (pytorch_model.bin, ckpt.pt), by an unpickler that knows tensors and plain values and nothing else."""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from configs.errors import UserError

DAMAGE = (pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError, TypeError, LookupError, AttributeError)
"""What PyTorch raises on files that are not sound."""


def read_pickled(file: Path) -> Any:
    """What the file holds, its tensors mapped where the file is of today's kind; nothing in it is run.

    Raises UserError where it is damaged, packed, or holds more than tensors and plain values.
    """
    try:
        modern = zipfile.is_zipfile(file)
        if modern:
            _require_unpacked(file)
        return torch.load(file, map_location="cpu", weights_only=True, mmap=modern)
    except DAMAGE as error:
        raise UserError(
            f"{file} is damaged or holds more than tensors, and nothing in it was run: convert it to safetensors."
        ) from error


def _require_unpacked(file: Path) -> None:
    """PyTorch stores tensors as they are; a packed one could unpack to any size."""
    with zipfile.ZipFile(file) as archive:
        packed = [entry.filename for entry in archive.infolist() if entry.compress_type != zipfile.ZIP_STORED]
    if packed:
        raise UserError(f"{file} holds {packed[0]} packed, which PyTorch never does: save it again with torch.save.")


def require_tensors(content: object, what: str) -> dict[str, Tensor]:
    """The content as tensors by name; raises UserError where it is anything else. `what` names it."""
    if not isinstance(content, Mapping) or not all(isinstance(tensor, Tensor) for tensor in content.values()):
        raise UserError(f"{what} is not a plain table of tensors: convert it to safetensors.")
    return {str(name): tensor.detach() for name, tensor in content.items()}
