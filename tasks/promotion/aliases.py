"""Moving the aliases so that a kill at any call leaves a champion, old or new, and ending what a kill cut short."""

from __future__ import annotations

from mlflow import MlflowClient

from tasks.promotion.ledger import MOVING, Ledger, LedgerEntry
from tasks.registry.lookup import CANDIDATE, CHAMPION, PREVIOUS, Aliases, aliases_of
from tasks.terminal.console import warn


def apply(client: MlflowClient, ledger: Ledger, entry: LedgerEntry) -> None:
    """Put the aliases that a decision moves where it says: `previous` first, `champion` in one atomic call, `candidate` last.

    A candidate that was registered meanwhile stays. Calling it again after a kill ends what was begun. Needs the lock.
    """
    before, after = entry.decision.before, entry.decision.after
    for alias in (PREVIOUS, CHAMPION, CANDIDATE) if entry.decision.verdict in MOVING else ():
        old, new = getattr(before, alias), getattr(after, alias)
        if old == new:
            continue
        current = getattr(Aliases.of(aliases_of(client, ledger.model)), alias)
        if new is not None and new != current:
            client.set_registered_model_alias(ledger.model, alias, new)
        elif new is None and current == old:
            client.delete_registered_model_alias(ledger.model, alias)
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
