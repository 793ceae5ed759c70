"""What no run can tell itself, told from a real Prefect server: dead processes, nights that no longer end well, full disks."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from prefect import flow, get_client
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.responses import DeploymentResponse
from prefect.states import Completed, Failed, Running

import tasks  # noqa: F401  # first: it points Prefect at the tests' workspace
from tasks.runs.flow_run_locks import FlowRunLock
from tasks.scheduling import night_watch
from tasks.scheduling.night_watch import last_success, watch_nights
from tasks.scheduling.recovery import reconcile_flow_runs
from tasks.workspace.folders import Workspace


@flow
def watched_night(config: dict[str, Any]) -> None:
    """Stands for the flow; nothing runs here."""


@pytest.fixture(scope="module")
def client() -> Iterator[SyncPrefectClient]:
    Workspace.current().create()
    with get_client(sync_client=True) as client:
        yield client


def deployed(client: SyncPrefectClient, name: str, file: Path, **alerts: Any) -> DeploymentResponse:
    config = {"name": name, "schedule": {}, "alerts": {"file": str(file), "disk_below": 0, **alerts}}
    return client.read_deployment(
        client.create_deployment(client.create_flow(watched_night), name, parameters={"config": config})
    )


def told(file: Path) -> list[tuple[str, str]]:
    rows = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    return [(row["kind"], row["sentence"]) for row in rows]


@pytest.fixture(autouse=True)
def waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """The worker does not wait for deliveries; a test does."""

    class Waiting(night_watch.Announcer):
        def tell(self, alert: Any) -> None:
            super().tell(alert)
            self.wait()

    monkeypatch.setattr(night_watch, "Announcer", Waiting)


def ended(client: SyncPrefectClient, deployment: UUID, state: Any) -> None:
    flow_run = client.create_flow_run_from_deployment(deployment)
    client.set_flow_run_state(flow_run.id, Running(), force=True)
    client.set_flow_run_state(flow_run.id, state, force=True)


def test_the_last_success_is_a_night_that_ended_well_or_had_nothing_new(client: SyncPrefectClient, tmp_path: Path) -> None:
    deployment = deployed(client, "good", tmp_path / "told")
    assert last_success(client, deployment) == deployment.created
    ended(client, deployment.id, Completed(name="Skipped", message="skipped: cpu is taken by 'demo'"))
    ended(client, deployment.id, Failed())
    assert last_success(client, deployment) == deployment.created
    ended(client, deployment.id, Completed(name="Skipped", message="skipped: nothing new since the night of ..."))
    nothing_new = last_success(client, deployment)
    assert nothing_new and deployment.created and nothing_new > deployment.created
    ended(client, deployment.id, Completed())
    completed = last_success(client, deployment)
    assert completed and completed > nothing_new


def test_nights_without_success_and_a_full_disk_are_told_once(
    client: SyncPrefectClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "told"
    deployment = deployed(client, "overdue", file, no_success="36h", disk_below=10**18)
    watch_nights(Workspace.current(), client, [deployment])
    assert [kind for kind, _ in told(file)] == ["disk low"]
    old = deployment.model_copy(update={"created": datetime.now(UTC) - timedelta(hours=37)})
    for _ in range(2):
        watch_nights(Workspace.current(), client, [old, old.model_copy(update={"paused": True})])
    assert [kind for kind, _ in told(file)] == ["disk low", "no success"]
    assert "No night has ended well for 1.5 days" in told(file)[1][1]


def test_a_process_that_has_died_is_told_with_what_becomes_of_it(client: SyncPrefectClient, tmp_path: Path) -> None:
    file = tmp_path / "told"
    deployment = deployed(client, "dying", file)
    flow_run = client.create_flow_run_from_deployment(deployment.id)
    client.set_flow_run_state(flow_run.id, Running(), force=True)
    with FlowRunLock.of(Workspace.current(), flow_run.id).taken():
        pass
    reconcile_flow_runs(Workspace.current(), client)
    [(kind, sentence)] = told(file)
    assert kind == "crashed"
    assert "of 'dying': Its process has died (attempt 1 of 5); it goes on from its last checkpoint in 60 s." in sentence
    FlowRunLock.of(Workspace.current(), flow_run.id).remove()
