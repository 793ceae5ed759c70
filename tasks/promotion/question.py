"""A question in Prefect's page: a flow run that is suspended until a person fills in its form.

Not what follows from the answer (`tasks.promotion.approval`). Prefect may be away: questions and answers are in the ledger.
"""

from __future__ import annotations

import math
from contextlib import suppress
from datetime import UTC, datetime
from typing import Annotated, Literal
from uuid import UUID

from httpx import HTTPError
from prefect import suspend_flow_run
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import DeploymentStatus, State
from prefect.deployments import run_deployment
from prefect.exceptions import ObjectNotFound
from prefect.input import RunInput
from pydantic import Field

from tasks.promotion.deployment import DEPLOYMENT, FLOW
from tasks.promotion.ledger import Decision
from tasks.promotion.page import MARKS


class Answer(RunInput):
    """The form in Prefect's page."""

    answer: Annotated[Literal["approve", "reject"], Field(description="Approve: the candidate becomes the champion.")]
    reason: Annotated[str, Field(pattern=r"\S", description="Why; it stands in the ledger.")]
    by: Annotated[str, Field(description="Who says so; unless given, whoever runs the worker.")] = ""


def suspend_until_answered(question: Decision) -> Answer:
    """Suspend this flow run, whose process ends, until a person answers; called again after that it returns the answer.

    After the deadline of the question Prefect calls the flow run Failed.
    """
    left = datetime.fromisoformat(question.deadline or question.when) - datetime.now(UTC)
    form = Answer.with_initial_data(description=question_in_words(question))
    given = suspend_flow_run(
        wait_for_input=form, timeout=max(1, math.ceil(left.total_seconds())), key=f"decision-{question.number}"
    )
    assert given is not None  # who resumes it in Prefect fills in the form
    return given


def question_in_words(question: Decision) -> str:
    """What the form stands under, in Markdown: who would follow whom, the grounds, and what became of each rule."""
    before, after = question.before.champion, question.after.champion
    instead = f" in place of version {before}" if before else ""
    rules = [f"- {MARKS[finding.mark]} {finding.rule}: {finding.sentence}" for finding in question.findings]
    asked = f"Shall version {after} become the champion of {question.model}{instead}?"
    return "\n".join([f"## {asked}", "", f"{question.why} After {question.deadline} nothing changes.", "", *rules])


def hand_to_worker(question: Decision) -> bool:
    """Let a worker start a flow run that asks; whether one is there. The same question is asked once."""
    name, parameters = f"{FLOW}/{DEPLOYMENT}", {"model": question.model, "number": question.number}
    key = f"{question.model}-{question.number}-{question.when}"
    try:
        with get_client(sync_client=True) as client:
            if client.read_deployment_by_name(name).status is not DeploymentStatus.READY:
                return False
        run_deployment(name, parameters=parameters, timeout=0, as_subflow=False, idempotency_key=key)
    except (ObjectNotFound, HTTPError):
        return False
    return True


def end(flow_run: str, state: State) -> None:
    """End a suspended flow run that nobody needs to answer any more; what counts is in the ledger, with Prefect or without."""
    with suppress(Exception), get_client(sync_client=True) as client:
        client.set_flow_run_state(UUID(flow_run), state, force=True)
