"""A run's id: the same settings on the same text from the same weights are the same run, and are found again by its id."""

from __future__ import annotations

import hashlib
import json
import subprocess
from pathlib import Path
from typing import Any

from configs.influence import Influence, defaults_by_name, settings_by_name
from configs.schema import RunConfig
from gpt2core.machine.durable import file_hash
from gpt2core.weights.model_folder import weight_files

KNOWN_TO_0_1: dict[str, Any] = {
    "steps": True,
    "batch_size": True,
    "accumulate": True,
    "learning_rate": True,
    "schedule": True,
    "decay_fraction": True,
    "warmup_steps": True,
    "final_learning_rate": True,
    "trainable": True,
    "lora": {"rank", "alpha", "dropout", "targets"},
    "optimizer": True,
    "weight_decay": True,
    "momentum": True,
    "epsilon": True,
    "beta1": True,
    "beta2": True,
    "clip": True,
    "order": True,
    "compat": True,
    "seed": True,
    "noise": True,
    "early_stopping": {"patience", "min_delta"},
    "on_divergence": True,
    "dtype": True,
    "compile": True,
}
"""Settings of `train` that version 0.1 hashed, whatever their values."""


def run_id(config: RunConfig, store_hash: str, base_hash: str, origin_hash: str = "") -> str:
    """The id under which the same settings on the same text from the same base weights are found again.

    Only settings that are not at their default count, so that a setting that is new in a later version changes no id.
    """
    ingredients = {"settings": _chosen(config), "store": store_hash, "base": base_hash, "origin": origin_hash}
    return _id(config, ingredients)


def run_id_of_0_1(config: RunConfig, store_hash: str, base_hash: str, origin_hash: str = "") -> str:
    """The id that version 0.1 gave the same run."""
    train = config.train.model_dump(include=KNOWN_TO_0_1)
    model = config.model.model_dump(include={"n_ctx", "n_embd", "n_head", "n_layer", "dropout"})
    data = config.data.model_dump(include={"mask_documents"})
    ingredients = {"train": train, "model": model, "data": data, "store": store_hash, "base": base_hash, "origin": origin_hash}
    return _id(config, ingredients)


def asked_ids(config: RunConfig, store_hash: str, base_hash: str) -> tuple[str, str]:
    """Ids of what was asked for, before it became numbers; the second one as version 0.1 gave it."""
    wishes = _hash(_chosen(config, Influence.SETTLES))
    wishes_of_0_1 = _hash(config.train.model_dump(include={"epochs", "tokens", "hours", "tokens_per_step"}))
    return run_id(config, store_hash, base_hash, wishes), run_id_of_0_1(config, store_hash, base_hash, wishes_of_0_1)


def differences(config: RunConfig, before: dict[str, Any]) -> list[str]:
    """What decides about the weights and is not as in the recorded config of a run: "train.seed is 2, was 1".

    A setting that was not known then is taken to have had its default.
    """
    defaults, found = defaults_by_name(config), []
    for name, value in settings_by_name(config).items():
        was: Any = before
        for part in name.split("."):
            was = was.get(part, defaults[name]) if isinstance(was, dict) else was
        if was != value:
            found.append(f"{name} is {value}, was {was}")
    return sorted(found)


def weights_hash(base: Path | None) -> str:
    """Hash of the base model's weight files; empty from scratch."""
    return "" if base is None else "-".join(file_hash(path) for path in weight_files(base))


def git_revision() -> str | None:
    """Commit of the working directory, if it is a git checkout: recorded with a run, and no part of its id."""
    try:
        done = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, timeout=5, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def _chosen(config: RunConfig, influence: Influence | None = None) -> dict[str, Any]:
    """The settings of this mark that are not at their default."""
    defaults = defaults_by_name(config, influence)
    return {name: value for name, value in settings_by_name(config, influence).items() if value != defaults[name]}


def _id(config: RunConfig, ingredients: dict[str, Any]) -> str:
    return f"{config.name}-{_hash(ingredients)[:8]}"


def _hash(value: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
