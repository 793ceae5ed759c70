"""The flow in which a person is asked in Prefect's page, where the promotion itself has ended; a worker runs it."""

from __future__ import annotations

from prefect import flow

from tasks.promotion.deployment import FLOW
from tasks.servers.cancellation import cancellable


@flow(name=FLOW, flow_run_name="{model}-decision-{number}", persist_result=False)
def ask_a_person(model: str, number: int) -> None:
    """Wait, suspended, for a person's answer to a decision of the ledger, and carry it out."""
    from tasks.promotion.approval import ask_in_prefect  # MLflow, which a worker that only offers this flow does not need

    with cancellable():
        ask_in_prefect(model, number)
