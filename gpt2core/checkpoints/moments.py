"""The optimizer's state in a checkpoint: one file, or one of each process where they share it out.

Then every process writes its own, all at the same time, into a folder beside the checkpoint, and the first one moves them.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

import torch
from torch import Tensor

from configs.errors import UserError
from gpt2core.distributed.messages import Messages, PeerLostError
from gpt2core.machine.durable import file_hash, named_write_errors
from gpt2core.optimization.optimizers import Optimization
from gpt2core.weights.tensor_files import Reader, open_tensors, save_tensors


def moments_file(rank: int = 0, size: int = 1) -> str:
    """Name of the file that process `rank` of `size` writes."""
    return "optimizer.safetensors" if size == 1 else f"optimizer-{rank + 1:05d}-of-{size:05d}.safetensors"


def is_moments_file(name: str) -> bool:
    """Whether a checkpoint's file of that name holds optimizer state."""
    return name.startswith("optimizer")


def read_moments(checkpoint: Path, optimizer: Optimization, device: torch.device) -> dict[str, Tensor]:
    """What this process keeps of a checkpoint's optimizer state, whoever wrote it."""
    found: dict[str, Reader] = {}
    for file in checkpoint.iterdir():
        if is_moments_file(file.name):
            found |= open_tensors(file)
    return {name: found[name]().to(device) for name in found.keys() & optimizer.own_names}


class OthersMoments:
    """What the other processes write for a checkpoint that the first one begins to save.

    Inside `with`, they write; at its end all of them are through, and what has not been moved away is removed.
    """

    def __init__(self, checkpoints: Path, messages: Messages) -> None:
        self._folder = checkpoints.absolute() / f"moments-{uuid4().hex}.tmp"  # of no other save, not even of a killed process
        self._messages = messages
        self.own_file = moments_file(0, messages.size)
        """Name for what this process keeps itself."""
        messages.say("save", folder=str(self._folder))

    def __enter__(self) -> OthersMoments:
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(PeerLostError):  # of whom another one will speak
            self._messages.handed_in(self._folder.name)
        shutil.rmtree(self._folder, ignore_errors=True)

    def move_into(self, checkpoint: Path) -> dict[str, str]:
        """Wait for their files, and move them; returns each one's hash by its name.

        Raises UserError where one of them could not write, caused by OSError where that was the reason; PeerLostError.
        """
        hashes = {}
        for rank, handed_in in self._messages.handed_in(self._folder.name).items():
            if "error" in handed_in:
                number = handed_in["errno"]
                raise UserError(handed_in["error"]) from (OSError(number, "") if number else None)
            name = moments_file(rank, self._messages.size)
            (self._folder / name).rename(checkpoint / name)
            hashes[name] = handed_in["hash"]
        return hashes


def write_for_the_first(folder: Path, moments: Mapping[str, Tensor], messages: Messages) -> None:
    """Of the others: write what this process keeps into that folder, and tell the first one how that went."""
    file = folder / moments_file(messages.rank, messages.size)
    try:
        with named_write_errors(file):
            folder.mkdir(parents=True, exist_ok=True)
        save_tensors(moments, file)
        messages.hand_in(folder.name, hash=file_hash(file))
    except Exception as error:
        reason = error.__cause__
        messages.hand_in(folder.name, error=str(error), errno=reason.errno if isinstance(reason, OSError) else None)
