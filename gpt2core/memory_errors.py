"""Recognises that memory did not suffice, which PyTorch says in other ways on each device."""

from __future__ import annotations

import torch

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
