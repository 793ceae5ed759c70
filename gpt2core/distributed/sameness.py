"""What must be the same in all processes of a run, since it decides about bits: code, text, libraries, kernels, threads."""

from __future__ import annotations

import hashlib
import platform
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path

import torch

from gpt2core.machine.kernel_level import level

CODE = ("gpt2core", "configs")
SUFFIXES = (".py", ".c", ".h")


def what_decides(device: torch.device, text: str) -> dict[str, str]:
    """Facts about this process, and the hash of the `text` that it reads, by the name that a user knows them under."""
    facts = {"gpt2flow's code": code_hash(), "text": text}
    facts |= {"Python": platform.python_version(), "PyTorch": torch.__version__}
    facts |= {"numpy": version("numpy"), "safetensors": version("safetensors")}
    if device.type == "cpu":
        return {**facts, "level of kernels": level(), "number of threads (OMP_NUM_THREADS)": str(torch.get_num_threads())}
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    return {**facts, "kind of device": name}


@lru_cache(maxsize=1)
def code_hash() -> str:
    """Hash of the files that compute."""
    root, found = Path(__file__).parents[2], hashlib.sha256()
    for file in sorted(file for package in CODE for file in (root / package).rglob("*") if file.suffix in SUFFIXES):
        found.update(f"{file.relative_to(root)}\n".encode() + file.read_bytes())
    return found.hexdigest()[:16]


def differences(own: dict[str, str], theirs: dict[str, str]) -> list[str]:
    """Each fact that differs, with both values."""
    return [f"{name} is {theirs.get(name)} there and {value} here" for name, value in own.items() if theirs.get(name) != value]
