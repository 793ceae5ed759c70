"""Lets every contender compute as on a lesser processor than this one, and names the one it is."""

from __future__ import annotations

import os
import platform
import tempfile
from pathlib import Path

from gpt2core.machine.kernel_level import VARIABLE, available, level

PEERS = {
    "avx2": {"ATEN_CPU_CAPABILITY": "avx2", "MKL_ENABLE_INSTRUCTIONS": "AVX2", "ONEDNN_MAX_CPU_ISA": "AVX2"},
    "avx512": {"ATEN_CPU_CAPABILITY": "avx512", "ONEDNN_MAX_CPU_ISA": "AVX512_CORE"},
}
"""How PyTorch's own libraries are told; they look when a process begins to compute."""


def lower_to(asked: str | None) -> None:
    """Let this process, and those that it starts, use no more than a level of `available()`.

    torch.compile takes code from its cache whatever width of vectors it was made for, and then writes past its buffers, so
    every level has a cache of its own.
    """
    if asked:
        os.environ[VARIABLE] = asked
        os.environ.update(PEERS.get(asked, {}))
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(Path(tempfile.gettempdir()) / f"gpt2flow-benchmark-{level()}")


def describe() -> str:
    """This processor and the level in use."""
    described = Path("/proc/cpuinfo")
    lines = described.read_text(encoding="utf-8").splitlines() if described.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.machine()}, kernels of level {level()} (it has {available()[0]})"
