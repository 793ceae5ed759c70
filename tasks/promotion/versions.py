"""The registry as people ask about it: models, versions with figures and lineage, two of them side by side, deleting one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import mlflow
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from configs.errors import UserError
from gpt2core.store.manifest import Manifest
from gpt2core.text.tokenizer import load_tokenizer
from gpt2core.weights.loading import load_model
from gpt2core.weights.model_folder import weight_files
from tasks.evidence.learnt_text import store_here
from tasks.registry.alias_lock import moving_aliases
from tasks.registry.deletion import forget_version, remove_logged_model
from tasks.registry.lookup import (
    Version,
    aliases_of,
    find_reference,
    find_version,
    lineage,
    registered_models,
    versions_of,
)
from tasks.runs.find import all_runs
from tasks.tracking.mlflow_mirror import flatten
from tasks.workspace.folders import Workspace

FIGURES = (
    "val_loss",
    "perplexity",
    "bits_per_byte",
    "accuracy",
    "calibration_error",
    "sample_repetition",
    "sample_copied_share",
)
PATIENCE = 60.0  # seconds for the lock


@dataclass(frozen=True)
class ModelRow:
    """A registered model."""

    name: str
    versions: int
    aliases: dict[str, str]


@dataclass(frozen=True)
class VersionRow:
    """A version with what is known of it."""

    version: Version
    figures: dict[str, float]
    bytes: int | None
    """Of the weights; None where the files are gone."""
    lineage: list[str]
    """From its base back to the first one."""


@dataclass(frozen=True)
class Difference:
    """Two versions side by side: only what differs, except for the figures."""

    first: Version
    second: Version
    settings: list[tuple[str, str, str]]
    text: list[tuple[str, str, str]]
    figures: list[tuple[str, str, str]]
    samples: list[tuple[str, str, str]] = field(default_factory=list)
    """Prompt and both completions."""


def list_all() -> list[ModelRow]:
    """All registered models."""
    client = MlflowClient()
    return [ModelRow(name, len(versions_of(client, name)), aliases_of(client, name)) for name in registered_models(client)]


def list_versions(model: str) -> list[VersionRow]:
    """The versions of a model, newest first; raises UserError for an unknown one."""
    client = MlflowClient()
    return [
        VersionRow(one, _figures(client, one), _size(one), _chain(client, one)) for one in reversed(versions_of(client, model))
    ]


def compare_versions(first: str, second: str) -> Difference:
    """Settings, text, figures and samples of two versions; raises UserError for unknown ones."""
    client = MlflowClient()
    one, two = find_reference(client, first), find_reference(client, second)
    settings = [flatten(version.metadata.get("config") or {}) for version in (one, two)]
    figures = [_figures(client, version) for version in (one, two)]
    names = [name for name in FIGURES if any(name in known for known in figures)]
    shown = [[name, *(f"{known[name]:.4f}" if name in known else "–" for known in figures)] for name in names]
    return Difference(
        one,
        two,
        _different(*settings),
        _different(_text_of(one), _text_of(two)),
        [(name, mine, theirs) for name, mine, theirs in shown],
        _samples(one, two),
    )


def delete_version(reference: str) -> str:
    """Delete a version with its files; returns what it was. Raises UserError where something needs it."""
    client = MlflowClient()
    version = find_reference(client, reference)
    with moving_aliases(client, version.name, f"deleting version {version.number}", PATIENCE):
        version = find_version(client, version.name, version.number)
        if needed := _needed_by(client, version):
            raise UserError(f"{version.uri} is needed: {needed}. Nothing was deleted.")
        forget_version(client, version)
        if logged := version.logged_model:
            remove_logged_model(client, logged)
    return version.uri


def damaged_aliases() -> Iterator[tuple[str, str, str | None]]:
    """Model, alias and what is wrong with the version that it names (None where it loads), of all aliases."""
    client = MlflowClient()
    for name in registered_models(client):
        for alias, number in sorted(aliases_of(client, name).items()):
            try:
                folder = find_version(client, name, number).folder
                load_model(folder)
                load_tokenizer(folder)
            except UserError as error:
                yield name, alias, str(error)
            else:
                yield name, alias, None


def _needed_by(client: MlflowClient, version: Version) -> str | None:
    """Why a version must stay."""
    if version.aliases:
        return f"it is {' and '.join(version.aliases)}"
    for run in all_runs(Workspace.current()):
        base = run.read("run").get("config", {}).get("model", {}).get("base")
        if base == version.uri and run.state() != "finished":
            return f"run {run.id} trains on from it"
    for name in registered_models(client):
        for other in versions_of(client, name):
            if other.base == version.uri and other.aliases:
                return f"{other.uri} ({', '.join(other.aliases)}) was trained from it"
            if other.uri != version.uri and (other.logged_model or "") == version.logged_model:
                return f"{other.uri} has the same files"
            if other.source == version.uri:
                return f"{other.uri} is a copy of it"
    return None


def _figures(client: MlflowClient, version: Version) -> dict[str, float]:
    """Of the step that was registered."""
    step = version.tags.get("checkpoint", "").removeprefix("step-")
    if not step.isdigit() or not version.run_id:
        return {}
    found: dict[str, float] = {}
    for name in FIGURES:
        with suppress(MlflowException):
            history = client.get_metric_history(version.run_id, name)
            at_step = [metric.value for metric in history if metric.step == int(step)]
            found.update([(name, value) for value in at_step])
    return found


def _size(version: Version) -> int | None:
    try:
        return sum(file.stat().st_size for file in weight_files(version.folder))
    except (UserError, OSError):
        return None


def _chain(client: MlflowClient, version: Version) -> list[str]:
    ancestors = list(lineage(client, version))
    last = (ancestors[-1] if ancestors else version).base
    return [*(ancestor.uri for ancestor in ancestors), *([last] if last and not last.startswith("models:/") else [])]


def _different(first: dict[str, str], second: dict[str, str]) -> list[tuple[str, str, str]]:
    names = dict.fromkeys([*first, *second])
    rows = [(name, first.get(name, "–"), second.get(name, "–")) for name in names]
    return [row for row in rows if row[1] != row[2]]


def _text_of(version: Version) -> dict[str, str]:
    """What is known of the text that a version was trained on."""
    store = version.tags.get("store", "")
    here = store_here(store)
    return {"token store": store, **(_counts(here.manifest) if here else {})}


def _counts(manifest: Manifest) -> dict[str, str]:
    return {
        f"{split} {name}": f"{getattr(count, name):,}"
        for split, count in manifest.counts.items()
        for name in ("documents", "bytes", "tokens")
    }


def _samples(first: Version, second: Version) -> list[tuple[str, str, str]]:
    """Completions of the prompts that both were asked, at the steps that were registered."""
    one, two = _completions(first), _completions(second)
    return [(prompt, one[prompt], two[prompt]) for prompt in one if prompt in two]


def _completions(version: Version) -> dict[str, str]:
    for run in all_runs(Workspace.current()):
        if run.id == version.tags.get("run"):
            step = int(version.tags.get("checkpoint", "step-0").removeprefix("step-"))
            return {sample["prompt"]: sample["completion"] for sample in run.samples_of(step)}
    return _logged_completions(version)


def _logged_completions(version: Version) -> dict[str, str]:
    """From MLflow's table of all samples, where the run is not here."""
    step, found = version.tags.get("checkpoint", "").removeprefix("step-"), {}
    with suppress(MlflowException, OSError, ValueError, KeyError):
        table: dict[str, Any] = mlflow.artifacts.load_dict(f"runs:/{version.run_id}/samples.json")
        for row in table["data"]:
            sample = dict(zip(table["columns"], row, strict=True))
            if int(sample["step"]) == int(step):
                found[str(sample["prompt"])] = str(sample["completion"])
    return found
