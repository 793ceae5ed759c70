"""Compiles single_rows.c with the machine's C compiler, once for each machine, and calls it.

Where there is no compiler, or on another kind of processor than the CPU, nothing here is needed: see `gpt2core.inference`.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import shutil
import subprocess
import tempfile
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor

SOURCE = Path(__file__).with_name("single_rows.c")
FLAGS = ("-O3", "-march=native", "-fPIC")
LANES = 16
"""Words that the C code reads side by side."""
WIDEST_HEAD = 256
POINTER, COUNT = ctypes.c_void_p, ctypes.c_int64
SIGNATURES = {
    "bfloat16_products": [POINTER] * 5 + [COUNT] * 3,
    "int8_products": [POINTER] * 5 + [COUNT] * 3,
    "attend_cached": [POINTER] * 3 + [COUNT] + [POINTER] * 5 + [COUNT] * 4,
}


@lru_cache(maxsize=1)
def library() -> ctypes.CDLL | None:
    """The compiled code; None where it cannot be compiled or loaded.

    OpenMP's functions are those that PyTorch has brought along, so both share threads and their number.
    """
    for openmp in (("-fopenmp",), ()):
        try:
            loaded = ctypes.CDLL(str(_compiled((*FLAGS, *openmp))))
        except (OSError, subprocess.CalledProcessError):
            continue
        for name, arguments in SIGNATURES.items():
            function = getattr(loaded, name)
            function.argtypes, function.restype = arguments, None
        return loaded
    return None


def products(x: Tensor, weight: Tensor, scale: Tensor | None, bias: Tensor | None) -> Tensor:
    """x float32 [rows, in] times weight [out, in] in bfloat16 or int8: float32 [rows, out]. `scale` and `bias` are [out].

    A row's bits do not depend on the other rows. `in` is a multiple of 64.
    """
    compiled = library()
    assert compiled is not None
    parts = 4 // weight.element_size()
    gathered = x.reshape(len(x), -1, LANES, parts).transpose(-1, -2).contiguous()
    out = torch.empty(len(x), len(weight))
    function = compiled.bfloat16_products if parts == 2 else compiled.int8_products
    function(*map(_address, (weight, scale, bias, gathered, out)), len(x), weight.shape[1], len(weight))
    return out


def attend_cached(query: Tensor, key: Tensor, value: Tensor, keys: Tensor, values: Tensor, lengths: Tensor) -> Tensor:
    """Write one new position's key and value float32 [B, H, 1, D] behind the cached ones; mix the values for its query.

    `keys` and `values` are bfloat16 [B, H, capacity, D], contiguous, filled up to `lengths` int64 [B]. D is a multiple of 32
    and at most 256. Returns float32 [B, H, 1, D].
    """
    compiled = library()
    assert compiled is not None
    rows, heads, capacity, width = keys.shape
    out, scores = torch.empty(rows, heads, 1, width), torch.empty(rows, heads, capacity)
    after = map(_address, (keys, values, lengths, scores, out))
    before = map(_address, (query, key, value))
    compiled.attend_cached(*before, query.stride(0), *after, rows, heads, capacity, width)
    return out


def _address(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()


def _compiled(flags: tuple[str, ...]) -> Path:
    """The shared library, made now unless it was made before on this kind of processor with these flags."""
    machine = json.dumps(dict(torch.cpu.get_capabilities()), sort_keys=True)
    key = hashlib.sha256(b"\0".join([SOURCE.read_bytes(), " ".join(flags).encode(), machine.encode()])).hexdigest()[:16]
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "gpt2flow"
    target = folder / f"single_rows-{key}.so"
    if not target.exists():
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            _compile(flags, Path(scratch)).replace(target)
    return target


def _compile(flags: tuple[str, ...], scratch: Path) -> Path:
    """Two steps, so that the linker does not add an OpenMP library beside PyTorch's own."""
    compiler = next((found for name in ("cc", "gcc", "clang") if (found := shutil.which(name))), None)
    if compiler is None:
        raise FileNotFoundError("no C compiler")
    made, linked = scratch / "single_rows.o", scratch / "single_rows.so"
    for command in ([*flags, "-c", str(SOURCE), "-o", str(made)], ["-shared", str(made), "-lm", "-o", str(linked)]):
        subprocess.run([compiler, *command], check=True, capture_output=True)
    return linked
