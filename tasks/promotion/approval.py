"""A person's word: asked in Prefect's page where somebody can answer there, and on the command line in any case."""

from __future__ import annotations

from mlflow import MlflowClient
from prefect.context import FlowRunContext
from prefect.states import Completed

from configs.errors import UserError
from tasks.promotion import question
from tasks.promotion.aliases import finish_interrupted
from tasks.promotion.hooks import tell
from tasks.promotion.ledger import FLOW_RUN, Approval, Decision, Ledger, LedgerEntry
from tasks.promotion.match import waiting_for_answer
from tasks.promotion.record import record_and_move
from tasks.registry.alias_lock import moving_aliases, now, who
from tasks.registry.lookup import Aliases, aliases_of
from tasks.terminal.console import say


def ask(decision: Decision) -> Decision:
    """Ask, and return what is known then: the answer, or the question where that stands until its deadline.

    A flow run of a deployment is suspended, and its process ends; for any other a worker's flow run asks, if there is one.
    """
    how = f"gpt2flow promote {decision.model} --approve --reason ... (or --reject)"
    say("approval", f"asked until {decision.deadline}: {how}", mark="[yellow]?[/]")
    if _own_flow_run():
        return ask_in_prefect(decision.model, decision.number)
    if question.hand_to_worker(decision):
        say("approval", "asked in Prefect's page as well", mark="[yellow]?[/]")
    return decision


def ask_in_prefect(model: str, number: int) -> Decision:
    """Suspend this flow run of a deployment until a person answers the question; then the decision that follows from it.

    What was answered, withdrawn or late meanwhile is not asked; nor is what another flow run asks. Raises UserError where there
    is no such question.
    """
    ledger, own = Ledger(MlflowClient(), model), _own_flow_run()
    entries = ledger.entries()
    entry = next((entry for entry in entries if entry.decision.number == number), None)
    if entry is None:
        raise UserError(f"There is no decision {number} about '{model}': gpt2flow history {model} shows what there was.")
    if closing := _closing(entries, number):
        return closing
    if entry.flow_run not in (None, own):
        return entry.decision
    if own:
        ledger.note(entry, FLOW_RUN, own)
    given = question.suspend_until_answered(ledger.record(entry) or entry.decision)
    return answer(model, given.answer == "approve", given.reason, given.by or who(), number)


def question_of_this_flow_run(model: str) -> Decision | None:
    """What this flow run has asked before it was suspended; None where it has just begun."""
    own = _own_flow_run()
    entries = Ledger(MlflowClient(), model).entries() if own else []
    return next((entry.decision for entry in entries if entry.flow_run == own), None)


def answer(
    model: str, agreed: bool, reason: str, by: str | None = None, number: int | None = None, wait: float = 60.0
) -> Decision:
    """Carry out what a person says to the question that waits, or to that of the number, and tell the hooks.

    Returns the decision that follows; the same answer twice is the same decision. Raises UserError where nothing waits, or a
    reason is missing.
    """
    if not reason.strip():
        raise UserError('A reason is needed, it stands in the ledger: add --reason "...".')
    client, ledger = MlflowClient(), Ledger(MlflowClient(), model)
    with moving_aliases(client, model, "answering a question", wait):
        finish_interrupted(client, ledger)
        aliases, entries = Aliases.of(aliases_of(client, model)), ledger.entries()
        entry = waiting_for_answer(entries, aliases)
        if entry is None or number not in (None, entry.decision.number):
            return _given_before(model, entries, agreed, number)
        waiting = ledger.record(entry) or entry.decision
        found = _answered(waiting, Approval(by=by or who(), agreed=agreed, reason=reason))
        decision = record_and_move(client, ledger, found)
    if entry.flow_run and entry.flow_run != _own_flow_run():
        question.end(entry.flow_run, Completed(message=decision.why))
    tell(decision)
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


def _given_before(model: str, entries: list[LedgerEntry], agreed: bool, number: int | None) -> Decision:
    """What closed the question of that number; without one the last decision, where it is this very answer."""
    last = entries[-1].decision if entries else None
    same = last if last and last.approval and last.approval.agreed == agreed else None
    found = same if number is None else _closing(entries, number)
    if found is None:
        raise UserError(f"No decision about '{model}' waits for an answer: gpt2flow history {model} shows what there was.")
    return found


def _closing(entries: list[LedgerEntry], number: int) -> Decision | None:
    """The decision that answered, closed or took the place of a question."""
    return next((entry.decision for entry in entries if entry.decision.answers == number), None)


def _own_flow_run() -> str | None:
    """Id of the flow run that this process works on, where a deployment has started it: no other can be suspended."""
    context = FlowRunContext.get()
    flow_run = context.flow_run if context else None
    return str(flow_run.id) if flow_run and flow_run.deployment_id else None
