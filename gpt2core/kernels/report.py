"""What computes on this machine's processor, in words: for `gpt2flow doctor`."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Mapping

from gpt2core.kernels import causal_attention, inference, matmul, training_kernels
from gpt2core.kernels.c_library import find_compiler
from gpt2core.machine.kernel_level import VARIABLE, level, processor_level

Parts = Mapping[str, ctypes.CDLL | None]
INSTALL = "install gcc or clang: without one, "


def describe_kernels() -> Iterator[tuple[str, str, str]]:
    """What it is for, what computes it, and what to do where more could be had (or nothing).

    Compiles the kernels if that was not done before, which takes seconds. Raises UserError where GPT2FLOW_KERNELS is wrong.
    """
    matrix_products = matmul.library() or matmul.float32_library()
    attention, others = (causal_attention.library() or causal_attention.float32_library()), training_kernels.library()
    training = {"products": matrix_products, "attention": attention, "GELU, loss, AdamW": others}
    yield "kernels, training", _value(training), _remedy("training is slower", training)
    generation = {"products of bfloat16 and int8 weights, attention": inference.library()}
    yield "kernels, generation", _value(generation), _remedy("it is slower and has no int8 weights", generation)


def _value(parts: Parts) -> str:
    compiled = [name for name, library in parts.items() if library is not None]
    lowered = f" (set by {VARIABLE}; this processor has {processor_level()})" if level() != processor_level() else ""
    if not compiled:
        return f"none{lowered}: PyTorch computes alone"
    rest = "" if len(compiled) == len(parts) else "; the rest by PyTorch"
    return f"{level()}{lowered}: {', '.join(compiled)} in C{rest}"


def _remedy(loss: str, parts: Parts) -> str:
    wanted = level() != "none" and not any(parts.values()) and find_compiler() is None
    return INSTALL + loss if wanted else ""
