"""Questions in Prefect: flow runs of a real server, suspended, then answered in its page, on the command line, or not at all.

Also tests `flows.ask` and `tasks.promotion.deployment`.
"""

import json
import time
from contextlib import suppress
from typing import Any
from urllib.request import Request, urlopen
from uuid import UUID

import pytest
from mlflow import MlflowClient
from prefect import get_client
from prefect.client.schemas.objects import FlowRun
from prefect.deployments import run_deployment
from prefect.exceptions import Pause
from prefect.flow_engine import run_flow

from flows.ask import ask_a_person
from tasks.promotion.approval import answer
from tasks.promotion.deployment import DEPLOYMENT, FLOW
from tasks.promotion.ledger import Decision, Ledger
from tasks.registry.lookup import Aliases, aliases_of
from tasks.scheduling.deployments import offer


@pytest.fixture
def asked(ledger: Ledger, wait_for_a_person: Any, request: pytest.FixtureRequest) -> tuple[Decision, UUID]:
    """A question, and the flow run that is suspended until it is answered."""
    offer(ask_a_person, DEPLOYMENT)
    question = wait_for_a_person(ledger, getattr(request, "param", 1.0))
    parameters = {"model": ledger.model, "number": question.number}
    flow_run = run_deployment(f"{FLOW}/{DEPLOYMENT}", parameters=parameters, timeout=0)
    assert isinstance(flow_run, FlowRun)
    go_on(flow_run.id)
    return question, flow_run.id


def go_on(flow_run: UUID) -> FlowRun:
    """Do what a worker's process does; returns how Prefect has it then."""
    with get_client(sync_client=True) as client:
        found = client.read_flow_run(flow_run)
        with suppress(Pause):
            run_flow(ask_a_person, flow_run=found, parameters=found.parameters, return_type="state")
        return client.read_flow_run(flow_run)


def answer_in_page(flow_run: UUID, **form: Any) -> str:
    """Send the form as Prefect's page does; returns what became of it."""
    with get_client(sync_client=True) as client:
        url = f"{str(client.api_url).rstrip('/')}/flow_runs/{flow_run}/resume"
    request = Request(url, json.dumps({"run_input": form}).encode(), {"Content-Type": "application/json"})
    with urlopen(request, timeout=30) as done:
        return str(json.loads(done.read())["status"])


def state_of(flow_run: UUID) -> str:
    with get_client(sync_client=True) as client:
        state = client.read_flow_run(flow_run).state
    return str(state.name) if state else ""


def stand(model: str) -> Aliases:
    return Aliases.of(aliases_of(MlflowClient(), model))


def test_the_form_in_the_page_says_what_was_decided_and_takes_no_answer_without_a_reason(
    asked: tuple[Decision, UUID],
) -> None:
    question, flow_run = asked
    assert state_of(flow_run) == "Suspended"
    with get_client(sync_client=True) as client:
        keys = client.read_flow_run(flow_run).state.state_details.run_input_keyset
        shown = client._client.get(f"/flow_runs/{flow_run}/input/{keys['description']}").text
    assert f"Shall version 2 become the champion of {question.model} in place of version 1?" in shown
    for form in (
        {"answer": "approve"},
        {"answer": "approve", "reason": "  "},
        {"answer": "perhaps", "reason": "x"},
        {"reason": "x"},
    ):
        assert answer_in_page(flow_run, **form) == "REJECT"
    assert stand(question.model).champion == "1"


def test_a_person_who_agrees_in_the_page_makes_the_champion(asked: tuple[Decision, UUID]) -> None:
    question, flow_run = asked
    assert answer_in_page(flow_run, answer="approve", reason="reads better", by="ada") == "ACCEPT"
    assert go_on(flow_run).state.is_completed()
    assert stand(question.model) == question.after
    last = Ledger(MlflowClient(), question.model).entries()[-1].decision
    assert (last.approval.by, last.approval.reason, last.answers) == ("ada", "reads better", question.number)


def test_an_answer_on_the_command_line_ends_the_flow_run_and_is_recorded_once(asked: tuple[Decision, UUID]) -> None:
    question, flow_run = asked
    answer(question.model, False, "too rude", "ada")
    assert state_of(flow_run) == "Completed"
    verdicts = [entry.decision.verdict for entry in Ledger(MlflowClient(), question.model).entries()]
    assert verdicts == ["awaiting approval", "refused"]
    assert stand(question.model) == question.before


@pytest.mark.parametrize("asked", [2 / 3600], indirect=True)
def test_after_the_deadline_the_page_takes_no_answer(asked: tuple[Decision, UUID]) -> None:
    question, flow_run = asked
    time.sleep(3)
    answer_in_page(flow_run, answer="approve", reason="too late")
    assert not go_on(flow_run).state.is_completed()
    assert stand(question.model) == question.before
