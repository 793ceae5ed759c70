"""Environments of other libraries, made when they are first needed (with network) and kept in .venv-interop/."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

HERE = Path(__file__).parent
PLACE = Path(os.environ.get("GPT2FLOW_INTEROP", HERE.parents[1] / ".venv-interop"))
NEEDED = {
    "tensorflow": ["tensorflow-cpu==2.21.0"],
    "transformers": ["transformers==5.24.0", "peft==0.21.2"],
    "llama_cpp": ["xllamacpp==2026.10.11549"],
}
BORROWS_TORCH = {"transformers"}
Program = Callable[..., str]


def _python_of(name: str) -> Path:
    """The interpreter of an environment, which is made if it is not there."""
    python, ready = PLACE / name / "bin" / "python", PLACE / name / ".ready"
    if not ready.exists():
        subprocess.run([sys.executable, "-m", "venv", PLACE / name], check=True)
        if name in BORROWS_TORCH:  # the project's own, which is large
            own = next(Path(path) for path in sys.path if path.endswith("site-packages"))
            next((PLACE / name).glob("lib/python*/site-packages")).joinpath("borrowed.pth").write_text(f"{own}\n")
        subprocess.run([python, "-m", "pip", "install", "-q", *NEEDED[name]], check=True)
        ready.touch()
    return python


@pytest.fixture(scope="session")
def program() -> Program:
    """Runs a program of `programs/` with the interpreter of an environment; returns what it prints."""

    def run(environment: str, name: str, *arguments: str | Path) -> str:
        command = [_python_of(environment), HERE / "programs" / name, *map(str, arguments)]
        quiet = {"TF_CPP_MIN_LOG_LEVEL": "3", "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}
        done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, **quiet}, timeout=300)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run
