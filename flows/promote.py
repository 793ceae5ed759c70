"""The promotion: match, text, measure both, decide, and ask a person where one must agree."""

from prefect import flow

from configs.promotion import PromotionSettings
from tasks.promotion.approval import ask, question_of_this_flow_run
from tasks.promotion.hooks import run_hooks
from tasks.promotion.ledger import Decision
from tasks.promotion.match import Settled
from tasks.promotion.stages import (
    BothMeasured,
    decide,
    find_match,
    freeze_deciding_text,
    known_answer,
    measure_model,
    time_models,
    try_candidate,
)
from tasks.servers.cancellation import cancellable


@flow(flow_run_name="promote-{model}", persist_result=False)
def promote(model: str, version: str | None = None, settings: PromotionSettings | None = None) -> Decision:
    """Let the candidate (or a version) of a registered model meet its champion; aliases move only if every rule holds.

    `settings` that are given come before those of the candidate's own run. A flow run that was suspended to ask a person goes
    on with the answer.
    """
    with cancellable():
        if asked := question_of_this_flow_run(model):
            return ask(asked)
        match = find_match(model, version, settings)
        if isinstance(match, Settled):
            return _settle(match.decision)
        text = freeze_deciding_text(match)
        if known := known_answer(match, text):
            return known
        found = BothMeasured()
        if text is not None:
            candidate, rival = measure_model(match, "candidate", text), measure_model(match, "rival", text)
            found = time_models(match, text, candidate, rival)
        decision = decide(match, found, try_candidate(match, found))
        return _settle(decision)


def _settle(decision: Decision) -> Decision:
    """What follows from a decision: the question to a person, or the news of a promotion."""
    if decision.verdict == "awaiting approval":
        return ask(decision)
    if decision.verdict == "promoted":
        run_hooks(decision)
    return decision
