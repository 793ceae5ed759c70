"""How much memory there is for training."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path, PurePosixPath

import psutil
import torch

SHARE = 0.9  # the rest is for everybody else


def available_bytes(device: torch.device) -> int:
    """What this process may hold in all: on an accelerator its free memory, else the machine's, or a container's, with
    what the process has already."""
    if device.type == "cuda":
        return int(SHARE * torch.cuda.mem_get_info(device)[0])
    return int(SHARE * (free_bytes() + psutil.Process().memory_info().rss))


def free_bytes() -> int:
    """What the machine's memory still has room for, or that of a container or another group of processes if it has less."""
    return max(0, min([psutil.virtual_memory().available, *(limit - used for limit, used in group_limits())]))


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
