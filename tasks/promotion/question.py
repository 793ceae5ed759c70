"""A question in Prefect's page: a flow run that is suspended until a person fills in its form.

Not what follows from the answer (`tasks.promotion.approval`). Prefect may be away: questions and answers are in the ledger.
"""

from __future__ import annotations

import math
from contextlib import suppress
from datetime import UTC, datetime
from typing import Annotated
from uuid import UUID

from httpx import HTTPError
from prefect import suspend_flow_run
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import DeploymentStatus
from prefect.deployments import run_deployment
from prefect.exceptions import ObjectNotFound
from prefect.input import RunInput
from prefect.states import Cancelled
from pydantic import Field

from tasks.promotion.deployment import DEPLOYMENT, FLOW
from tasks.promotion.ledger import Decision
from tasks.promotion.page import decision_in_short

ANSWERED = "answered on the command line"


class Answer(RunInput):
    """The form in Prefect's page."""

    agree: bool
    """Whether the candidate becomes the champion."""
    reason: Annotated[str, Field(pattern=r"\S")]
    """Why; it stands in the ledger."""
    by: str = ""
    """Who says so."""


def suspend_until_answered(question: Decision) -> Answer:
    """Suspend this flow run, whose process ends, until a person answers; called again after that it returns the answer.

    After the deadline of the question Prefect calls the flow run Failed.
    """
    left = datetime.fromisoformat(question.deadline or question.when) - datetime.now(UTC)
    form = Answer.with_initial_data(description=decision_in_short(question), agree=False)
    given = suspend_flow_run(
        wait_for_input=form, timeout=max(1, math.ceil(left.total_seconds())), key=f"decision-{question.number}"
    )
    assert given is not None  # who resumes it in Prefect fills in the form
    return given


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


def resume(flow_run: str, agreed: bool) -> None:
    """Let a suspended flow run end: its question is answered elsewhere, which counts without Prefect as well."""
    with suppress(Exception), get_client(sync_client=True) as client:
        client.resume_flow_run(UUID(flow_run), run_input={"agree": agreed, "reason": ANSWERED})


def withdraw(flow_run: str, why: str) -> None:
    """End a suspended flow run whose question nobody needs to answer any more."""
    with suppress(Exception), get_client(sync_client=True) as client:
        client.set_flow_run_state(UUID(flow_run), Cancelled(message=why), force=True)
