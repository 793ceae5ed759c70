"""What the model registry needs: which versions stay, why, and which token stores they and their ancestors come from."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from mlflow import MlflowClient

from tasks.maintenance.runs_in_use import RunsInUse
from tasks.promotion.ledger import Ledger
from tasks.promotion.match import waiting_for_answer
from tasks.registry.lookup import CHAMPION, PINNED, Aliases, Known, Version, aliases_of, lineage, registered_models, versions_of
from tasks.tracking.mlflow_mirror import KEY


@dataclass(frozen=True)
class RegistryInUse:
    """All versions of all models, oldest first, and why each that stays does."""

    client: MlflowClient
    versions: list[Version]
    reasons: dict[str, str]
    """By URI."""
    known: Known = field(default_factory=dict)
    """What was read for lineages."""

    def stores_of(self, version: Version) -> tuple[str, ...]:
        """Token stores of a version and of its ancestors, its own first, as far as they are recorded."""
        line = [version, *lineage(self.client, version, self.known)]
        return tuple(dict.fromkeys(store for one in line if (store := one.tags.get("store"))))


def bases_of(versions: Iterable[Version]) -> set[str]:
    """What versions were fine-tuned from; of those that are not gpt2flow's nothing is known."""
    return {version.tags["base"] for version in versions if "base" in version.tags}


def all_versions(client: MlflowClient) -> list[Version]:
    """Of all registered models."""
    return [version for name in registered_models(client) for version in versions_of(client, name)]


def look_at_registry(client: MlflowClient, versions: list[Version], runs: RunsInUse, keep: int) -> RegistryInUse:
    """`keep` versions of each model stay beside those that something needs; what is not gpt2flow's stays."""
    reasons = {version.uri: "it is not gpt2flow's" for version in versions if not is_ours(version)}
    reasons |= {version.uri: f"it is {' and '.join(version.aliases)}" for version in versions if version.aliases}
    unfinished = {run.folder.id for run in runs.unfinished}
    for version in versions:
        if version.uri in runs.bases:
            reasons[version.uri] = "an unfinished run or night goes on from it"
        elif version.tags.get("run") in unfinished:
            reasons[version.uri] = "its run is unfinished"
    reasons |= {version.source: f"{version.uri} is a copy of it" for version in versions if PINNED.fullmatch(version.source)}
    names = {version.name for version in versions}
    for name in names:
        own = [version for version in versions if version.name == name]
        numbers = _in_question(client, name)
        reasons |= {version.uri: "a decision about it is open" for version in own if version.number in numbers}
        spare = [version for version in own if version.uri not in reasons]
        reasons |= {version.uri: f"one of the {keep} newest without alias" for version in spare[len(spare) - keep :] if keep}
    reasons |= _bases_elsewhere(client, [version for version in versions if version.uri not in reasons], runs)
    return RegistryInUse(client, versions, _first_bases(versions, reasons))


def is_ours(version: Version) -> bool:
    """Whether gpt2flow has registered it."""
    return "content" in version.tags and "model_id" in version.tags


def _first_bases(versions: list[Version], reasons: dict[str, str]) -> dict[str, str]:
    """Also the bases of versions that stay and whose model has no champion: a first champion must beat its base."""
    with_champion = {version.name for version in versions if CHAMPION in version.aliases}
    first = [version for version in versions if version.uri in reasons and version.name not in with_champion]
    needed = {version.uri: "a first champion would have to beat it" for version in versions if version.uri in bases_of(first)}
    return needed | reasons


def _in_question(client: MlflowClient, name: str) -> set[str | None]:
    """Versions that an open question, or a decision that a kill cut short, may still move an alias to."""
    entries = Ledger(client, name).entries()
    open_still = [entry for entry in entries[-1:] if not entry.applied]
    if waiting := waiting_for_answer(entries, Aliases.of(aliases_of(client, name))):
        open_still.append(waiting)
    return {
        number
        for entry in open_still
        for stand in (entry.decision.before, entry.decision.after)
        for number in (stand.champion, stand.previous, stand.candidate)
    }


def _bases_elsewhere(client: MlflowClient, spare: list[Version], runs: RunsInUse) -> dict[str, str]:
    """Versions with which MLflow knows a run of another workspace to have begun that has not come to its end."""
    experiments = [found.experiment_id for found in client.search_experiments()]
    here, needed = {run.folder.id for run in runs.runs}, {}
    for version in spare:
        begun = f"params.`model.base` = '{version.uri}' and attributes.status != 'FINISHED'"
        for run in client.search_runs(experiments, begun):
            if KEY in run.data.tags and run.info.run_name not in here:
                needed[version.uri] = f"run {run.info.run_name}, which is not here, goes on from it"
    return needed
