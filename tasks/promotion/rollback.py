"""The way back: the previous champion takes its place again, after it has worked in a fresh process."""

from __future__ import annotations

from typing import Any

from mlflow import MlflowClient

from configs.errors import UserError
from tasks.evidence.entrant import config_of
from tasks.promotion.aliases import finish_interrupted
from tasks.promotion.hooks import tell
from tasks.promotion.ledger import Decision, Ledger
from tasks.promotion.record import record_and_move
from tasks.registry.alias_lock import moving_aliases, now, who
from tasks.registry.lookup import Aliases, aliases_of, find_version
from tasks.terminal.console import begin
from tasks.tracking.fresh_process import problem_in_fresh_process

PATIENCE = 60.0  # seconds for the lock


def roll_back(model: str, reason: str = "") -> Decision:
    """Champion and previous change places, so doing it again goes forward; recorded, and hooks are told.

    Raises UserError where there is no previous champion, or it no longer works.
    """
    client, ledger = MlflowClient(), Ledger(MlflowClient(), model)
    aliases_of(client, model)
    with moving_aliases(client, model, "rolling back", PATIENCE):
        finish_interrupted(client, ledger)
        aliases = Aliases.of(aliases_of(client, model))
        if aliases.previous is None:
            raise UserError(f"The model '{model}' has no previous champion to go back to: gpt2flow history {model}.")
        target = find_version(client, model, aliases.previous)
        begin("rollback", f"trying version {target.number} in a fresh process")
        if problem := problem_in_fresh_process(target.uri, ""):
            raise UserError(f"Version {target.number} does not work any more ({problem}): nothing was changed.")
        decision = Decision(
            model=model,
            verdict="rolled back",
            why=reason or "No reason was given.",
            when=now(),
            who=who(),
            before=aliases,
            after=Aliases(aliases.previous, aliases.champion, aliases.candidate),
            settings=_settings_of(client, model, aliases),
        )
        done = record_and_move(client, ledger, decision)
    tell(done)
    return done


def _settings_of(client: MlflowClient, model: str, aliases: Aliases) -> dict[str, Any]:
    """Settings of the version that was champion; it may be gone, then those of the new one."""
    known = aliases.champion or aliases.previous
    return config_of(find_version(client, model, known)).promote.model_dump(mode="json") if known else {}
