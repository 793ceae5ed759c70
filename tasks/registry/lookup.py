"""What the model registry knows: versions with their aliases, tags, settings and lineage. Reads only."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import mlflow
import xxhash
import yaml
from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

from configs.addresses import shown
from configs.errors import UserError
from gpt2core.machine.durable import file_hash
from gpt2core.weights.model_folder import weight_files
from tasks.runs.models import latest_run, resolve_model

CHAMPION, PREVIOUS, CANDIDATE = "champion", "previous", "candidate"
NOT_A_MODEL = "gpt2flow.lock"
"""Tag of entries in the registry that are no models."""
URI = re.compile(r"models:/([^/@]+)(?:@([^/]+)|/(\d+))")
PINNED = re.compile(r"models:/([^/@]+)/(\d+)")
LOGGED = re.compile(r"\bm-[0-9a-f]{32}\b")
ADDRESS = re.compile(r"([^/@:]+)(?:[@/]([^/@]+))?")
GONE = "gpt2flow.gone."
"""Beginning of a registered model's tags: what is remembered of versions that were deleted, by their numbers."""


@dataclass(frozen=True)
class Aliases:
    """Versions that carry the three aliases of a promotion."""

    champion: str | None = None
    previous: str | None = None
    candidate: str | None = None

    @classmethod
    def of(cls, aliases: dict[str, str]) -> Aliases:
        """Those of a registered model."""
        return cls(*(str(aliases[name]) if name in aliases else None for name in (CHAMPION, PREVIOUS, CANDIDATE)))


@dataclass(frozen=True)
class Version:
    """One version of a registered model."""

    name: str
    number: str
    run_id: str
    created: int
    """Milliseconds since 1970."""
    tags: dict[str, str] = field(default_factory=dict)
    aliases: tuple[str, ...] = ()
    source: str = ""
    """What it was made from, as MLflow says it."""

    @property
    def logged_model(self) -> str | None:
        """Id of the logged model whose files it has, also where somebody has registered that by hand."""
        match = LOGGED.search(self.source)
        return self.tags.get("model_id") or (match[0] if match else None)

    @property
    def uri(self) -> str:
        """models:/NAME/VERSION"""
        return f"models:/{self.name}/{self.number}"

    @cached_property
    def folder(self) -> Path:
        """Its model folder on this machine; raises UserError where its files are gone."""
        return resolve_model(self.uri)

    @cached_property
    def metadata(self) -> dict[str, Any]:
        """What was written when it was registered: store, config, base; empty where that cannot be read."""
        try:
            content = (self.folder.parents[1] / "MLmodel").read_text(encoding="utf-8")
            return dict((yaml.safe_load(content) or {}).get("metadata") or {})
        except (UserError, OSError, ValueError):
            return {}

    @property
    def base(self) -> str | None:
        """What it was fine-tuned from: models:/NAME/VERSION, another reference, or 'scratch'; None where that is not known."""
        return self.tags.get("base") or (self.metadata.get("config") or {}).get("model", {}).get("base")


def registered_models(client: MlflowClient) -> list[str]:
    """Names of all models, sorted."""
    found: list[str] = []
    page = client.search_registered_models()
    while True:
        found += [model.name for model in page if NOT_A_MODEL not in model.tags]
        if not page.token:
            return sorted(found)
        page = client.search_registered_models(page_token=page.token)


def default_model() -> str:
    """The model of the latest run; raises UserError where there is no run."""
    try:
        config = latest_run().read("run").get("config", {})
    except UserError:
        raise UserError("Name a registered model, such as demo: there is no run here whose model could be meant.") from None
    return str(config.get("registry", {}).get("model") or config.get("name"))


def aliases_of(client: MlflowClient, name: str) -> dict[str, str]:
    """Alias to version; raises UserError that lists the models where there is none of that name."""
    try:
        return {alias: str(version) for alias, version in client.get_registered_model(name).aliases.items()}
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
    known = ", ".join(registered_models(client)) or "none yet"
    raise UserError(f"There is no registered model '{name}'. Models: {known}.") from None


def versions_of(client: MlflowClient, name: str) -> list[Version]:
    """All versions, oldest first; raises UserError for an unknown model."""
    aliases = aliases_of(client, name)
    found: list[ModelVersion] = []
    page = client.search_model_versions(f"name = '{name}'")
    while True:
        found += page
        if not page.token:
            break
        page = client.search_model_versions(f"name = '{name}'", page_token=page.token)
    return sorted((_version(one, aliases) for one in found), key=lambda version: int(version.number))


def find_version(client: MlflowClient, name: str, which: str) -> Version:
    """The version with that number or alias; raises UserError that says what there is."""
    versions = versions_of(client, name)
    for version in versions:
        if which == version.number or which in version.aliases:
            return version
    known = ", ".join("@".join((v.number, *v.aliases)) for v in versions) or "none"
    raise UserError(f"The model '{name}' has no version or alias '{which}'. Versions: {known}.")


def find_reference(client: MlflowClient, reference: str) -> Version:
    """models:/NAME@ALIAS, models:/NAME/VERSION, NAME@ALIAS or NAME/VERSION; raises UserError for anything else."""
    match = ADDRESS.fullmatch(reference.removeprefix("models:/"))
    if match is None or match[2] is None:
        raise UserError(f"'{reference}' names no version: write NAME/VERSION or NAME@ALIAS, such as demo@champion.")
    return find_version(client, match[1], match[2])


def alias_version(client: MlflowClient, name: str, alias: str) -> Version | None:
    """The version that carries an alias; None where none does."""
    number = aliases_of(client, name).get(alias)
    return find_version(client, name, number) if number else None


Known = dict[str, dict[str, Version]]
"""Versions by model and number, deleted ones too."""


def lineage(client: MlflowClient, version: Version, known: Known | None = None) -> Iterator[Version]:
    """The registered versions that this one comes from, its own base first, deleted ones too.

    `known` keeps what was read, for those who ask about many versions.
    """
    known, passed = {} if known is None else known, {version.uri}
    while match := PINNED.fullmatch(version.base or ""):
        name, number = match.groups()
        if name not in known:
            known[name] = _ever_registered(client, name)
        if number not in known[name] or known[name][number].uri in passed:
            return
        version = known[name][number]
        passed.add(version.uri)
        yield version


def _ever_registered(client: MlflowClient, name: str) -> dict[str, Version]:
    """All versions of a model and what is remembered of those that were deleted; nothing where there is no such model."""
    try:
        present = {version.number: version for version in versions_of(client, name)}
    except UserError:
        return {}
    tags = client.get_registered_model(name).tags
    gone = {key.removeprefix(GONE): json.loads(value) for key, value in tags.items() if key.startswith(GONE)}
    return {number: Version(name, number, "", 0, about) for number, about in gone.items()} | present


def content_hash(folder: Path) -> str:
    """Hash of a model's weights, sizes and vocabulary: the same for the same content, wherever it lies."""
    digest = xxhash.xxh3_128()
    beside = [folder / name for name in ("config.json", "tokenizer.json")]
    for file in [*weight_files(folder), *(file for file in beside if file.is_file())]:
        digest.update(f"{file.name} {file_hash(file)}\n".encode())
    return digest.hexdigest()


def server() -> str:
    """Where the registry is, for sentences."""
    return shown(mlflow.get_tracking_uri())


def _version(found: ModelVersion, aliases: dict[str, str]) -> Version:
    number = str(found.version)
    own = tuple(sorted(alias for alias, target in aliases.items() if target == number))
    tags, source = dict(found.tags or {}), found.source or ""
    return Version(found.name, number, found.run_id or "", found.creation_timestamp, tags, own, source)
