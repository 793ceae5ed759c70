"""Moving the aliases so that a kill at any call leaves a champion, old or new, and ending what a kill cut short."""

from __future__ import annotations

from mlflow import MlflowClient

from tasks.promotion.ledger import Entry, Ledger
from tasks.promotion.registry import CANDIDATE, CHAMPION, PREVIOUS, Aliases, aliases_of
from tasks.terminal.console import warn


def apply(client: MlflowClient, ledger: Ledger, entry: Entry) -> None:
    """Put the aliases where the decision says: `previous` first, `champion` in one atomic call, the candidate's last.

    Calling it again after a kill ends what was begun. Needs the model's lock.
    """
    model, wanted = ledger.model, entry.decision.after
    _place(client, model, PREVIOUS, wanted.previous)
    _place(client, model, CHAMPION, wanted.champion)
    _place(client, model, CANDIDATE, wanted.candidate)
    ledger.mark_applied(entry)


def finish_interrupted(client: MlflowClient, ledger: Ledger) -> None:
    """End what a kill cut short: forget decisions that were not sealed, carry the last sealed one out.

    A champion that somebody has chosen by hand meanwhile stays. Needs the model's lock.
    """
    ledger.remove_incomplete()
    for entry in ledger.entries()[-1:]:
        if entry.applied:
            return
        champion = Aliases.of(aliases_of(client, ledger.model)).champion
        if champion in (entry.decision.before.champion, entry.decision.after.champion):
            apply(client, ledger, entry)
        else:
            warn(
                "registry", f"decision {entry.decision.number} was cut short and version {champion} chosen by hand: that stays"
            )
            ledger.note(entry, "superseded", f"champion {champion} was chosen by hand")
            ledger.mark_applied(entry)


def _place(client: MlflowClient, model: str, alias: str, version: str | None) -> None:
    current = getattr(Aliases.of(aliases_of(client, model)), alias)
    if version == current:
        return
    if version is None:
        client.delete_registered_model_alias(model, alias)
    else:
        client.set_registered_model_alias(model, alias, version)
