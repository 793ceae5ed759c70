"""A person's word: asked in Prefect's page where somebody can answer there, and on the command line in any case."""

from __future__ import annotations

import math
from contextlib import suppress
from datetime import UTC, datetime
from uuid import UUID

from mlflow import MlflowClient
from prefect import suspend_flow_run
from prefect.client.orchestration import get_client
from prefect.context import FlowRunContext
from prefect.input import RunInput

from configs.errors import UserError
from tasks.promotion.aliases import finish_interrupted
from tasks.promotion.ledger import Approval, Decision, Ledger, LedgerEntry
from tasks.promotion.match import waiting_for_answer
from tasks.promotion.record import record_and_move
from tasks.registry.alias_lock import moving_aliases, now, who
from tasks.registry.lookup import Aliases, aliases_of
from tasks.terminal.console import say

FLOW_RUN = "prefect_flow_run"
"""Note in the ledger: the flow run that is suspended until a person answers."""


class Answer(RunInput):
    """The form in Prefect's page."""

    agree: bool
    """Whether the candidate becomes the champion."""
    reason: str
    """Why; it stands in the ledger."""
    by: str = ""
    """Who says so."""


def ask(decision: Decision) -> Decision:
    """Ask where somebody can answer later. A flow run of a deployment is suspended until then, and its process ends.

    One that was started by hand ends, and the question stands until its deadline.
    """
    context, ledger = FlowRunContext.get(), Ledger(MlflowClient(), decision.model)
    flow_run = context.flow_run if context else None
    how = f"gpt2flow promote {decision.model} --approve --reason ... (or --reject)"
    say("approval", f"asked until {decision.deadline}: {how}", mark="[yellow]?[/]")
    if flow_run is None or flow_run.deployment_id is None:
        return decision
    for entry in ledger.entries():
        if entry.decision.number == decision.number:
            ledger.note(entry, FLOW_RUN, str(flow_run.id))
    given = suspend_flow_run(wait_for_input=Answer, timeout=_seconds_left(decision), key=f"decision-{decision.number}")
    assert given is not None  # who resumes it in Prefect fills in the form
    return answer(decision.model, given.agree, given.reason, given.by or who())


def answer(model: str, agreed: bool, reason: str, by: str | None = None, wait: float = 60.0) -> Decision:
    """Carry out what a person says to the decision that waits; returns the decision that follows.

    The same answer twice is the same decision. Raises UserError where nothing waits, or a reason is missing.
    """
    if not reason.strip():
        raise UserError('A reason is needed, it stands in the ledger: add --reason "...".')
    client, ledger = MlflowClient(), Ledger(MlflowClient(), model)
    with moving_aliases(client, model, "answering a question", wait):
        finish_interrupted(client, ledger)
        aliases, entries = Aliases.of(aliases_of(client, model)), ledger.entries()
        entry = waiting_for_answer(entries, aliases)
        if entry is None:
            if given := _given_just_now(entries, agreed):
                return given
            raise UserError(f"No decision about '{model}' waits for an answer: gpt2flow history {model} shows what there was.")
        waiting = ledger.record(entry) or entry.decision
        found = _answered(waiting, Approval(by=by or who(), agreed=agreed, reason=reason))
        decision = record_and_move(client, ledger, found)
    _resume_flow_run(client, entry, agreed)
    return decision


def _answered(waiting: Decision, approval: Approval) -> Decision:
    says = f"{approval.by} {'agreed' if approval.agreed else 'did not agree'}: {approval.reason}"
    changes = {
        "verdict": "promoted" if approval.agreed else "refused",
        "after": waiting.after if approval.agreed else waiting.before,
        "why": f"{says} ({waiting.why})",
        "when": now(),
        "who": who(),
        "deadline": None,
        "answers": waiting.number,
        "approval": approval,
    }
    return waiting.model_copy(update=changes)


def _given_just_now(entries: list[LedgerEntry], agreed: bool) -> Decision | None:
    """The last decision, where it is this very answer: a suspended flow run goes on after the command line has answered."""
    last = entries[-1].decision if entries else None
    return last if last and last.approval and last.approval.agreed == agreed else None


def _seconds_left(decision: Decision) -> int:
    left = datetime.fromisoformat(decision.deadline or now()) - datetime.now(UTC)
    return max(1, math.ceil(left.total_seconds()))


def _resume_flow_run(client: MlflowClient, entry: LedgerEntry, agreed: bool) -> None:
    """Tell Prefect that the question is answered, if a flow run waits there; its own attempt finds the decision made."""
    run = client.get_run(entry.run_id)
    waiting = run.data.tags.get(f"gpt2flow.{FLOW_RUN}")
    if not waiting or FlowRunContext.get():
        return
    with suppress(Exception), get_client(sync_client=True) as prefect:  # the answer counts without Prefect as well
        prefect.resume_flow_run(UUID(waiting), run_input={"agree": agreed, "reason": "answered on the command line"})
