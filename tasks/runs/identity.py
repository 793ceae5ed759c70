"""What a run is known by beside its settings: the hash of its base model, the revision of the code."""

from __future__ import annotations

import subprocess
from pathlib import Path

from gpt2core.machine.durable import file_hash
from gpt2core.weights.model_folder import weight_files


def weights_hash(base: Path | None) -> str:
    """Hash of the base model's weight files; empty from scratch."""
    return "" if base is None else "-".join(file_hash(path) for path in weight_files(base))


def git_revision() -> str | None:
    """Commit of the working directory, if it is a git checkout."""
    try:
        done = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, timeout=5, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
