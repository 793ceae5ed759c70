"""Recognises that memory did not suffice, which PyTorch says in other ways on each device."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from configs.errors import UserError

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
