"""How much memory there is for training."""

from __future__ import annotations

from pathlib import Path

import psutil
import torch

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
