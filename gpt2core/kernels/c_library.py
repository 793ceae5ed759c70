"""Compiles a C file of this package with the machine's C compiler, once for each machine, and loads it.

Where there is no compiler everything works all the same: whoever calls the code has a way without it.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from gpt2core.machine.kernel_level import FLAGS as LEVEL_FLAGS
from gpt2core.machine.kernel_level import Level, level, reaches

SOURCES = Path(__file__).with_name("c")
FLAGS = ("-O3", "-fno-math-errno", "-fno-trapping-math", "-fPIC")
COUNTED = ("_size", "_bytes")
"""How functions are called that return a count; the others return nothing."""
POINTER, COUNT, NUMBER = ctypes.c_void_p, ctypes.c_int64, ctypes.c_float


class CLibrary:
    """The functions of c/`name`.c, whose arguments are given, for a level from `least` on.

    `defined` are macros that the preprocessor finds defined. Called, it gives the functions as they are compiled for the
    level of this process; None where that is too low, or there is no compiler. OpenMP's functions are those that PyTorch has
    brought along, so both share threads and their number.
    """

    def __init__(
        self, name: str, signatures: Mapping[str, Sequence[type]], least: Level = "portable", defined: tuple[str, ...] = ()
    ) -> None:
        self._name, self._signatures, self._least = name, signatures, least
        self._defined = tuple(f"-D{word}" for word in defined)
        self._loaded: dict[Level, ctypes.CDLL | None] = {}

    def __call__(self) -> ctypes.CDLL | None:
        """The functions, or None."""
        allowed = level()
        if allowed not in self._loaded:
            self._loaded[allowed] = self._load(allowed) if reaches(allowed, self._least) else None
        return self._loaded[allowed]

    def forget(self) -> None:
        """Look for a compiler again when it is called next."""
        self._loaded.clear()

    def _load(self, allowed: Level) -> ctypes.CDLL | None:
        source = SOURCES / f"{self._name}.c"
        for openmp in ("-fopenmp", "-fopenmp-simd"):
            try:
                loaded = ctypes.CDLL(str(_compiled(source, (*FLAGS, *LEVEL_FLAGS[allowed], *self._defined, openmp))))
            except (OSError, subprocess.CalledProcessError):
                continue
            for name, arguments in self._signatures.items():
                function = getattr(loaded, name)
                function.argtypes, function.restype = arguments, COUNT if name.endswith(COUNTED) else None
            return loaded
        return None


def find_compiler() -> str | None:
    """Where this machine's C compiler is."""
    return next((found for name in ("cc", "gcc", "clang") if (found := shutil.which(name))), None)


def address(tensor: Tensor | None) -> int | None:
    """Where its elements lie; NULL for None."""
    return None if tensor is None else tensor.data_ptr()


def _compiled(source: Path, flags: tuple[str, ...]) -> Path:
    """The shared library, made now unless it was made before on this kind of processor with these flags."""
    machine = json.dumps(dict(torch.cpu.get_capabilities()), sort_keys=True)
    texts = [file.read_bytes() for file in (source, *sorted(source.parent.glob("*.h")))]
    key = hashlib.sha256(b"\0".join([*texts, " ".join(flags).encode(), machine.encode()])).hexdigest()[:16]
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "gpt2flow"
    target = folder / f"{source.stem}-{key}.so"
    if not target.exists():
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            _compile(source, flags, Path(scratch)).replace(target)
    return target


def _compile(source: Path, flags: tuple[str, ...], scratch: Path) -> Path:
    """Two steps, so that the linker does not add an OpenMP library beside PyTorch's own."""
    compiler = find_compiler()
    if compiler is None:
        raise FileNotFoundError("no C compiler")
    made, linked = scratch / "made.o", scratch / "linked.so"
    for command in ([*flags, "-c", str(source), "-o", str(made)], ["-shared", str(made), "-lm", "-o", str(linked)]):
        subprocess.run([compiler, *command], check=True, capture_output=True)
    return linked
