"""Which device to compute on."""

from __future__ import annotations

import torch

from configs.errors import UserError


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
