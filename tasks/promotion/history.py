"""The ledger as it is read: from MLflow, or where that is away from the copies in the workspace."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from configs.errors import UserError
from tasks.promotion.ledger import PAGE, Decision, Ledger, broken_links
from tasks.registry.lookup import aliases_of, server


@dataclass(frozen=True)
class DecisionHistory:
    """Decisions about a model, oldest first."""

    model: str
    decisions: list[Decision]
    problems: list[str]
    from_copies: bool
    folder: Path

    def page(self, number: int) -> Path:
        """Where the page of a decision lies, if this workspace has it."""
        return self.folder / f"{number:06d}" / PAGE


def read_history(model: str) -> DecisionHistory:
    """The ledger; copies are completed from MLflow. Raises UserError for an unknown model."""
    client, ledger = MlflowClient(), Ledger(MlflowClient(), model)
    try:
        entries = ledger.entries()
        if not entries:
            aliases_of(client, model)
        sealed = [(entry.decision, entry.fingerprint) for entry in entries]
        lost = [
            f"the record of decision {entry.decision.number} is not what was sealed, or gone"
            for entry in entries
            if ledger.record(entry) is None
        ]
        return DecisionHistory(
            model, [decision for decision, _ in sealed], [*broken_links(sealed), *lost], False, ledger.folder
        )
    except MlflowException as error:
        copies = ledger.copies()
        if not copies:
            raise UserError(
                f"MLflow does not answer and no copy of the ledger of '{model}' is here: start {server()}."
            ) from error
    return DecisionHistory(model, [copy for copy, _ in copies], broken_links(copies), True, ledger.folder)
