"""The tiny run that tests start from: seconds on one core, and every part of the pipeline but the lens, a third of the time."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from configs.schema import LENGTHS, RunConfig

SMALLEST = {"n_ctx": 8, "n_embd": 8, "n_head": 1, "n_layer": 1}
"""Sizes for tests that only need some model."""


def tiny_values(name: str, text: Path | None = None, **sections: Mapping[str, Any]) -> dict[str, Any]:
    """Name and sections of a config as YAML holds them; `sections` lie above what they are here."""
    values: dict[str, dict[str, Any]] = {
        "data": {"source": str(text)} if text else {},
        "tokenizer": {"vocab_size": 300},
        "model": {"n_ctx": 16, "n_embd": 16, "n_head": 2, "n_layer": 2, "dropout": 0.1},
        "train": {"steps": 8, "batch_size": 2, "warmup_steps": 2, "checkpoint_every": 4},
        "evaluate": {"every": 4, "prompts": ["The "], "max_new_tokens": 8, "lens": False},
        "registry": {"enabled": False},
    }
    if LENGTHS & sections.get("train", {}).keys():
        del values["train"]["steps"]
    names = [*values, *(name for name in sections if name not in values)]
    return {"name": name, **{section: {**values.get(section, {}), **sections.get(section, {})} for section in names}}


def tiny_run(name: str, text: Path | None = None, **sections: Mapping[str, Any]) -> RunConfig:
    """The same as a config."""
    return RunConfig.model_validate(tiny_values(name, text, **sections))
