"""The night's question to the gate: does the new version become champion?"""

from __future__ import annotations

from dataclasses import dataclass

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from configs.schema import RunConfig
from tasks.finetuning.result import RunResult


@dataclass(frozen=True)
class Verdict:
    """What the gate said."""

    promoted: bool
    reason: str


def ask_for_promotion(config: RunConfig, result: RunResult) -> Verdict:
    """Promote the run's version if it is better than what the night went on from, on the same held-out text.

    A night begins with the champion, so the figures of step 0 are the champion's. `previous` is set first and the champion's
    alias last, so that a kill in between leaves a champion.
    """
    alias, name = config.schedule.go_on_from, result.model
    if result.version is None:
        return Verdict(False, "nothing was registered")
    champion = _version_of(name, alias)
    if champion == result.version:
        return Verdict(True, f"version {result.version} is '{alias}'")
    figures = f"validation loss {result.before.val_loss:.4f} before, {result.best.val_loss:.4f} after"
    if champion and result.best.val_loss >= result.before.val_loss:
        return Verdict(False, f"version {champion} stays '{alias}': {figures}")
    client = MlflowClient()
    if champion:
        client.set_registered_model_alias(name, "previous", champion)
    client.set_registered_model_alias(name, alias, result.version)
    return Verdict(True, f"version {result.version} is now '{alias}': {figures}")


def _version_of(name: str, alias: str) -> str | None:
    try:
        return str(MlflowClient().get_model_version_by_alias(name, alias).version)
    except MlflowException:
        return None
