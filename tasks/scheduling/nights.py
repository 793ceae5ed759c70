"""What a night trains on, what it goes on from and what it came to: kept, so that a killed night goes on in the same way.

nights/NAME/TEXT.json   one night; TEXT is the hash of the text and of the settings that decide about the weights
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from pathlib import Path

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from prefect import task
from prefect.cache_policies import NO_CACHE

from configs.influence import Influence, settings_by_name
from configs.schema import RunConfig
from gpt2core.machine.sealed_json import DamagedFileError, read_sealed, write_sealed
from gpt2core.store.index import reading_options
from gpt2core.text.documents import SourceFile
from tasks.finetuning.result import RunResult
from tasks.promotion.ledger import Decision
from tasks.terminal.console import say
from tasks.workspace.folders import Workspace


@dataclass(frozen=True)
class Night:
    """One night, as far as it has come."""

    name: str
    text: str
    begun: str
    base: str
    """What model.base is for the night: a registered version by its number, or the config's own base."""
    tokenizer: str
    ended: str = ""
    """When it reached its end; empty before."""
    run: str = ""
    version: str | None = None
    promoted: bool = False
    reason: str = ""

    def config(self, config: RunConfig) -> RunConfig:
        """The night's own config: the text is the config's, the model that of the night before."""
        model = config.model.model_copy(update={"base": self.base})
        tokenizer = config.tokenizer.model_copy(update={"source": self.tokenizer})
        return config.model_copy(update={"model": model, "tokenizer": tokenizer})


@task(cache_policy=NO_CACHE, persist_result=False)
def begin_night(config: RunConfig, files: list[SourceFile]) -> Night:
    """The night of this text: ended before, interrupted, or a new one that goes on from the champion."""
    text = _fingerprint(config, files)
    path = _folder(config.name) / f"{text}.json"
    if night := _read(path):
        return night
    champion = _champion(config)
    base, tokenizer = (champion, "base") if champion else (config.model.base, config.tokenizer.source)
    night = Night(config.name, text, _now(), base, tokenizer)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_sealed(path, asdict(night))
    say(
        "night",
        f"goes on from {champion}" if champion else f"no version is '{config.schedule.go_on_from}' yet: from model.base",
    )
    return night


def end_night(night: Night, result: RunResult, decision: Decision | None) -> Night:
    """Note what the night came to; from now on its text is nothing new. Without a decision nothing was registered."""
    promoted = decision is not None and decision.after.champion == result.version and decision.verdict != "awaiting approval"
    reason = f"{decision.verdict}. {decision.why}" if decision else "nothing was registered"
    ended = replace(night, ended=_now(), run=result.run, version=result.version, promoted=promoted, reason=reason)
    write_sealed(_folder(night.name) / f"{night.text}.json", asdict(ended))
    return ended


def all_nights(name: str) -> list[Night]:
    """The nights of a config by its name, in the order in which they began."""
    found = [_read(path) for path in _folder(name).glob("*.json")]
    return sorted((night for night in found if night), key=lambda night: night.begun)


def _champion(config: RunConfig) -> str:
    """URI, by number, of the version that has the alias; empty where none has."""
    name = config.registry.model or config.name
    try:
        version = MlflowClient().get_model_version_by_alias(name, config.schedule.go_on_from).version
    except MlflowException as error:
        if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            return ""
        raise
    return f"models:/{name}/{version}"


def _fingerprint(config: RunConfig, files: list[SourceFile]) -> str:
    """Of the text as it is read, and of all that decides about the weights; where the text lies is free."""
    settings = settings_by_name(config) | settings_by_name(config, Influence.SETTLES)
    ingredients = [settings, config.model.base, config.tokenizer.model_dump(), reading_options(config.data)]
    text = sorted(file.sha256 for file in files)
    return hashlib.sha256(json.dumps([ingredients, text], sort_keys=True).encode()).hexdigest()[:16]


def _read(path: Path) -> Night | None:
    try:
        return Night(**read_sealed(path))
    except (FileNotFoundError, DamagedFileError):
        return None


def _folder(name: str) -> Path:
    return Workspace.current().nights / name


def _now() -> str:
    return datetime.now().isoformat(timespec="seconds")
