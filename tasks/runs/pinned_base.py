"""The base model of a run: one that an alias names is pinned to a version, so that a resumed run has the same base."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from configs.errors import UserError
from configs.schema import RunConfig
from gpt2core.store.token_store import TokenStore
from tasks.runs.find import all_runs
from tasks.runs.identity import differences
from tasks.runs.models import resolve_base
from tasks.runs.run_folder import RunFolder
from tasks.terminal.console import say
from tasks.workspace.folders import Workspace

BY_ALIAS = re.compile(r"models:/([^/@]+)@([^/@]+)")


def pin_base(config: RunConfig) -> RunConfig:
    """The config with models:/NAME/VERSION where model.base is models:/NAME@ALIAS; as it is where no version has the alias."""
    match = BY_ALIAS.fullmatch(config.model.base)
    if match is None:
        return config
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    try:
        version = MlflowClient().get_model_version_by_alias(match[1], match[2]).version
    except MlflowException:
        return config  # resolving it says what is wrong
    say("base", f"{config.model.base} is version {version}")
    return with_base(config, f"models:/{match[1]}/{version}")


def stay_with_base(asked: RunConfig, config: RunConfig, store: TokenStore) -> RunConfig:
    """The config with the version that an unfinished run of the same settings and text has begun with.

    `asked` is the config before it was pinned: only an alias can mean another version than before.
    """
    match = BY_ALIAS.fullmatch(asked.model.base)
    if match is None:
        return config
    for run in all_runs(Workspace.current()):
        known = run.read("run")
        base = known["config"]["model"]["base"]
        same = known["store"] == store.hash and known["config"]["name"] == config.name and not _differences(config, known)
        if same and run.outcome() != "finished" and base.startswith(f"models:/{match[1]}/"):
            if base != config.model.base:
                say("base", f"run {run.id} was begun with {base} and goes on with it")
            return with_base(config, base)
    return config


def find_base(config: RunConfig) -> Path | None:
    """As `resolve_base`; where the base is gone, the UserError names the finished run of the same settings.

    That it is finished can only be said with the base, since what a run is called depends on its base's weights.
    """
    try:
        return resolve_base(config.model)
    except UserError as error:
        if (run := _finished_run(config)) is None:
            raise
        hint = f"Run {run.id} has the same settings and is finished: unless its text has changed, there is nothing to do."
        raise UserError(f"{error} {hint}") from None


def _finished_run(config: RunConfig) -> RunFolder | None:
    for run in all_runs(Workspace.current()):
        known = run.read("run")
        same = (known["config"]["name"], known["config"]["model"]["base"]) == (config.name, config.model.base)
        if same and run.outcome() == "finished" and not _differences(config, known):
            return run
    return None


def _differences(config: RunConfig, known: dict[str, Any]) -> list[str]:
    """What decides about the weights and is set differently; numbers that are still to be worked out are no difference."""
    open_still = ["train.steps is 0, ", "train.batch_size is 0, "]
    if not config.train.batch_size:
        open_still.append("train.accumulate ")
    return [text for text in differences(config, known["config"]) if not text.startswith(tuple(open_still))]


def with_base(config: RunConfig, base: str) -> RunConfig:
    """The same config with another base."""
    return config.model_copy(update={"model": config.model.model_copy(update={"base": base})})
