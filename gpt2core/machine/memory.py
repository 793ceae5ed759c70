"""How much memory there is for training."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath

import psutil
import torch

from configs.errors import UserError

SHARE = 0.9  # the rest is for everybody else


def available_bytes(device: torch.device) -> int:
    """What this process may hold in all: on an accelerator its free memory, else the machine's, or a container's, with
    what the process has already."""
    if device.type == "cuda":
        return int(SHARE * torch.cuda.mem_get_info(device)[0])
    return int(SHARE * (free_bytes() + psutil.Process().memory_info().rss))


def free_bytes() -> int:
    """What the machine's memory still has room for, or that of a container or another group of processes if it has less."""
    free = int(psutil.virtual_memory().available)
    return max(0, min([free, *(limit - used for limit, used in group_limits())]))


def group_limits(root: Path = Path("/sys/fs/cgroup"), process: Path = Path("/proc/self/cgroup")) -> Iterator[tuple[int, int]]:
    """Limit and use in bytes of every control group that this process is in and that has a limit, version 2 or 1.

    Files that the kernel keeps in memory and would give back do not count as used.
    """
    lines = process.read_text(encoding="utf-8").splitlines() if process.exists() else []
    for _, controllers, place in (line.split(":", 2) for line in lines):
        if controllers not in ("", "memory"):
            continue
        top = root / controllers
        limit, use, cached = _FILES[controllers]
        # A container may see the path that the machine knows, and find its own group at the top.
        for group in (top / path.as_posix().lstrip("/") for path in (PurePosixPath(place), *PurePosixPath(place).parents)):
            with suppress(OSError, ValueError, KeyError):  # absent, or "max"
                statistics = dict(line.split() for line in (group / "memory.stat").read_text(encoding="ascii").splitlines())
                found = int((group / limit).read_text(encoding="ascii"))
                yield found, int((group / use).read_text(encoding="ascii")) - int(statistics[cached])


_FILES = {
    "": ("memory.max", "memory.current", "inactive_file"),
    "memory": ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
}


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
