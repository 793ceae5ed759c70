"""What the files beside a model's weights say about how it was trained."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import yaml

from gpt2core.checkpoints.checkpoint import Checkpoint, read_state


@dataclass(frozen=True)
class Provenance:
    """The token store that a model was trained on, if that is known, and whether documents were kept apart there."""

    store: str | None = None
    mask_documents: bool = False


def read_provenance(folder: Path) -> Provenance:
    """Of a run's checkpoint or a registered version; of any other folder of weights nothing is known."""
    registered = folder.parents[1] / "MLmodel"
    if (folder / "state.json").is_file():
        state = read_state(Checkpoint(folder, 0))
        return Provenance(state.get("store"), bool(state.get("config", {}).get("data", {}).get("mask_documents")))
    if registered.is_file():
        metadata = (yaml.safe_load(registered.read_text(encoding="utf-8")) or {}).get("metadata") or {}
        return Provenance(metadata.get("store"), bool(metadata.get("mask_documents")))
    return Provenance()
