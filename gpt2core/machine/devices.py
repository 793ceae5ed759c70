"""Which device to compute on."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from configs.errors import UserError

SMALLEST_PARALLEL_WIDTH = 256
THREADS = torch.get_num_threads()
"""As PyTorch chose them for one process on this machine."""


def choose_device(setting: str) -> torch.device:
    """The device that `auto`, `cpu`, `cuda`, `cuda:N` or `mps` stands for here; raises UserError where it is missing."""
    if setting == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(setting)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, ValueError):
        raise UserError(f"train.device '{setting}' is not available here: use auto or cpu.") from None
    return device


def accelerator_name() -> str | None:
    """Name and memory of the accelerator that `auto` takes; None where there is only the CPU."""
    if torch.cuda.is_available():
        card = torch.cuda.get_device_properties(0)
        return f"{card.name}, {card.total_memory / 1e9:.0f} GB, {torch.cuda.device_count()} in this machine"
    return "Apple GPU (mps)" if torch.backends.mps.is_available() else None


def visible_gpus() -> list[str]:
    """What CUDA_VISIBLE_DEVICES has to say for each of the GPUs that this process sees; empty without one."""
    count = torch.cuda.device_count()
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    return named.split(",")[:count] if named else [str(number) for number in range(count)]


def copy_to(device: torch.device, tensor: Tensor) -> Tensor:
    """A tensor on `device`; from the host to CUDA without waiting for what the device still has to do."""
    if device.type == "cuda" and tensor.device.type == "cpu":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


@contextmanager
def same_bits_every_time(device: torch.device) -> Iterator[None]:
    """On CUDA, only kernels whose results do not depend on the order in which threads come; elsewhere there are no others.

    The setting is PyTorch's own and holds for the process. cuBLAS wants its variable set before its first product: `gpt2core`
    does that when it is imported.
    """
    before = torch.are_deterministic_algorithms_enabled()
    if device.type != "cuda" or before:
        yield
        return
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined] # which would only take time
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)


def choose_threads(n_embd: int, processes: int = 1) -> None:
    """Compute small models on one thread, others of several processes on a share of the cores; OMP_NUM_THREADS goes before.

    Their operations are so short that a second thread gains little on idle cores and loses much on busy ones, where both
    wait for each other at every operation (measured: 1.4 times as fast, and 5 to 10 times as slow). Training tries both where
    that changes no bit: `training.thread_choice`.
    """
    if "OMP_NUM_THREADS" in os.environ:
        return
    if n_embd < SMALLEST_PARALLEL_WIDTH:
        torch.set_num_threads(1)
    elif processes > 1:
        torch.set_num_threads(max(1, THREADS // processes))


@contextmanager
def keeping_threads() -> Iterator[None]:
    """What computes inside chooses its number of threads; what comes after it finds the number that was there before."""
    before = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(before)
