"""Which number format is fast on this hardware."""

from __future__ import annotations

from typing import Literal

import torch

from gpt2core.machine.kernel_level import level

SMALLEST_BFLOAT16_WIDTH = 64
"""n_embd from which bfloat16 was measured to be faster on a CPU; a narrower model has nothing worth speeding up."""


def choose_dtype(setting: Literal["auto", "float32", "bfloat16"], device: torch.device, n_embd: int) -> torch.dtype:
    """The dtype that `train.dtype` stands for here: `auto` takes bfloat16 where the hardware multiplies it faster."""
    if setting != "auto":
        return torch.bfloat16 if setting == "bfloat16" else torch.float32
    if device.type == "cuda":
        fast = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        fast = device.type == "cpu" and n_embd >= SMALLEST_BFLOAT16_WIDTH and cpu_multiplies_bfloat16()
    return torch.bfloat16 if fast else torch.float32


def cpu_multiplies_bfloat16() -> bool:
    """Whether this CPU has instructions for products of bfloat16 (AVX512-BF16 or AMX), and may use them."""
    return level() == "bf16"
