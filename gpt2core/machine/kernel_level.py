"""Which of a processor's instructions the compiled kernels may use: the best there are, or what GPT2FLOW_KERNELS allows.

A lower level than the machine's makes it compute as a lesser machine would, which is what tests and benchmarks use it for.
"""

from __future__ import annotations

import os
from functools import lru_cache
from typing import Any, Literal, get_args

from configs.errors import UserError

Level = Literal["none", "portable", "avx2", "avx512", "bf16"]
LEVELS: tuple[Level, ...] = get_args(Level)
"""From none (PyTorch alone) to products of bfloat16 (AVX512-BF16 or AMX); `portable` is what every processor of a kind has."""
VARIABLE = "GPT2FLOW_KERNELS"
AVX512 = ("avx512_f", "avx512_bw", "avx512_dq", "avx512_vl")
FLAGS: dict[Level, tuple[str, ...]] = {
    "portable": (),
    "avx2": ("-mavx2", "-mfma"),
    "avx512": ("-mavx2", "-mfma", "-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mprefer-vector-width=512"),
    "bf16": ("-march=native",),
}
"""What a C compiler is told."""


def level() -> Level:
    """The level of this process; raises UserError where GPT2FLOW_KERNELS is none or is above the processor."""
    asked, best = os.environ.get(VARIABLE, ""), processor_level()
    if not asked:
        return best
    if asked not in LEVELS:
        raise UserError(f"{VARIABLE} is '{asked}': set it to one of {', '.join(reversed(LEVELS))}, or unset it.")
    found = LEVELS[LEVELS.index(asked)]
    if not reaches(best, found):
        raise UserError(f"{VARIABLE} is '{asked}', and this processor has no more than '{best}': lower it, or unset it.")
    return found


def reaches(one: Level, other: Level) -> bool:
    """Whether a level allows what the other one does."""
    return LEVELS.index(one) >= LEVELS.index(other)


def available() -> tuple[Level, ...]:
    """The levels that can be tried on this machine, the best first."""
    return tuple(reversed(LEVELS[: LEVELS.index(processor_level()) + 1]))


@lru_cache(maxsize=1)
def processor_level() -> Level:
    """The best that this processor has."""
    import torch

    has: dict[str, Any] = dict(torch.cpu.get_capabilities())
    if has.get("avx512_bf16") or has.get("amx_bf16"):
        return "bf16"
    if all(map(has.get, AVX512)):
        return "avx512"
    return "avx2" if has.get("avx2") and has.get("fma3") else "portable"
