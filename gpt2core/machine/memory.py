"""How much memory there is for training."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import torch

from configs.errors import UserError

CGROUP = Path("/sys/fs/cgroup")
SHARE = 0.9  # the rest is for everybody else


def available_bytes(device: torch.device) -> int:
    """What this process may hold in all: on an accelerator its free memory, else the machine's, or a container's, with
    what the process has already."""
    if device.type == "cuda":
        return int(SHARE * torch.cuda.mem_get_info(device)[0])
    free = psutil.virtual_memory().available + psutil.Process().memory_info().rss
    return int(SHARE * min([free, *_container_limits()]))


def _container_limits() -> list[int]:
    """Limits of control groups, version 2 and 1; none where there are none."""
    found = []
    for file in (CGROUP / "memory.max", CGROUP / "memory" / "memory.limit_in_bytes"):
        try:
            found.append(int(file.read_text(encoding="ascii")))
        except (OSError, ValueError):  # absent, or "max"
            continue
    return found


SIGNS = (
    "can't allocate memory",  # c10's DefaultCPUAllocator
    "could not create a memory object",  # oneDNN
    "std::bad_alloc",
    "MPS backend out of memory",
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an allocation failed: in Python, on an accelerator, or on the CPU, where PyTorch raises a plain RuntimeError."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in SIGNS)


@contextmanager
def naming_lack_of_memory() -> Iterator[None]:
    """Turn a lack of memory for which there is no remedy on the way into a UserError."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise UserError(
            "Memory does not suffice for the model, its gradients and the optimizer: gpt2flow plan says what fits, "
            "and train.trainable lora takes less."
        ) from error
