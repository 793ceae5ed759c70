"""torch.compile for the blocks of a model in training: one compilation, since all blocks are alike.

Compiled code is kept on disk and used again, because a second compilation may choose other kernels, which round differently.
"""

from __future__ import annotations

import os
import shutil
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import torch

from configs.errors import UserError
from gpt2core.machine.kernel_level import processor_level
from gpt2core.model.gpt2 import GPT2, run_block

LONG_RUN = 500
"""Batches from which compiling pays for itself."""


def choose_compilation(setting: Literal["auto"] | bool, device: torch.device, batches: int) -> bool:
    """What `train.compile` stands for here: `auto` compiles a run of many batches on CUDA, and nothing elsewhere.

    Raises UserError where it is asked for and there is no compiler.
    """
    if device.type == "cuda":
        found, lacking = find_spec("triton") is not None, "the package triton"
    else:
        found, lacking = any(map(shutil.which, [os.environ.get("CXX", "c++"), "g++", "clang++"])), "a C++ compiler"
    if setting is True and not found:
        raise UserError(f"train.compile needs {lacking} on {device.type}: install it, or use train.compile auto.")
    return found and (device.type == "cuda" and batches >= LONG_RUN if setting == "auto" else setting)


def keep_compiled_code(folder: Path) -> None:
    """Keep what this process compiles from now on in `folder`, and take from there what was compiled before.

    Each kind of processor has its own: PyTorch would take code with AVX2's vectors where it counts on AVX512's, and write past
    the end of tensors.
    """
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(folder / processor_level())


def compile_blocks(model: GPT2) -> None:
    """Let the model run its blocks compiled while it is in training mode; the first batch takes up to a minute longer."""
    model.training_block = torch.compile(run_block, dynamic=False)
