"""What must be the same in all processes of a run, since it decides about bits: code, text, libraries, kernels, threads."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Mapping
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path

import torch

from configs.errors import UserError
from gpt2core.machine.kernel_level import level

CODE = ("gpt2core", "configs")
SUFFIXES = (".py", ".c", ".h")


def software() -> dict[str, str]:
    """What computes in this process, by the name that a user knows it under."""
    versions = {"Python": platform.python_version(), "PyTorch": torch.__version__}
    return {"gpt2flow's code": code_hash(), **versions, **{name: version(name) for name in ("numpy", "safetensors")}}


def what_decides(device: torch.device, text: str, any_threads: bool) -> dict[str, str]:
    """The same with what it computes on, and the hash of the `text` that it reads.

    The number of threads belongs to it unless any gives the same bits (`any_threads`): see `training.thread_choice`.
    """
    facts = {**software(), "text": text}
    if device.type == "cpu":
        threads = {} if any_threads else {"number of threads (OMP_NUM_THREADS)": str(torch.get_num_threads())}
        return {**facts, "level of kernels": level(), **threads}
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    return {**facts, "kind of device": name}


def require_same(own: dict[str, str], others: Mapping[int, dict[str, str]]) -> None:
    """Raise UserError for the first of the other processes for which one of these facts is another, naming all that are."""
    for rank, facts in others.items():
        if different := differences(own, facts):
            raise UserError(
                f"Process {rank} of {len(others) + 1} is not like the first one: {'; '.join(different)}. Give all the same."
            )


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
