"""From a decision to its consequence: into the ledger first, then the aliases, then those who watch."""

from __future__ import annotations

from mlflow import MlflowClient

from tasks.promotion.aliases import apply
from tasks.promotion.ledger import Decision, Ledger
from tasks.promotion.page import render_decision, show_in_prefect


def record_and_move(client: MlflowClient, ledger: Ledger, decision: Decision) -> Decision:
    """Append to the ledger, then put the aliases where the decision says. Needs the model's lock."""
    numbered, entry = ledger.append(decision, render_decision)
    apply(client, ledger, entry)
    show_in_prefect(numbered)
    return numbered
