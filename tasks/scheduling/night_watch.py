"""Tells what no run can tell itself: that its process has died, that nights no longer end well, that the disk fills up."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterDeploymentId,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.client.schemas.responses import DeploymentResponse
from prefect.client.schemas.sorting import FlowRunSort

from configs.alerts import AlertSettings
from tasks.alerts import rules
from tasks.alerts.alert import Alert
from tasks.alerts.announcer import Announcer
from tasks.workspace.folders import Workspace

NOTHING_NEW = "nothing new"


def tell_of_death(flow_run: FlowRun, new: State) -> None:
    """The process of a flow run has died; `new` says what becomes of it."""
    settings, name = _alerts_of(flow_run.parameters), _name_in(flow_run.parameters)
    if settings.failed and name:
        Announcer(settings, name).tell(Alert("crashed", name, f"Flow run '{flow_run.name}' of '{name}': {new.message}"))


def watch_nights(workspace: Workspace, client: SyncPrefectClient, deployments: Iterable[DeploymentResponse]) -> None:
    """Look at every deployment that is not paused: when its last night ended well, and whether its disk fills up."""
    for deployment in deployments:
        name = _name_in(deployment.parameters)
        if deployment.paused or not name:
            continue
        settings = _alerts_of(deployment.parameters)
        announcer, free = Announcer(settings, name), shutil.disk_usage(workspace.root).free
        if text := rules.disk_low(free, settings.disk_below, str(workspace.root)):
            announcer.tell(Alert("disk low", name, text))
        if settings.no_success and (last := last_success(client, deployment)):
            text = rules.overdue(last, datetime.now(UTC), settings.no_success)
            if text:
                announcer.tell(Alert("no success", name, text))


def last_success(client: SyncPrefectClient, deployment: DeploymentResponse) -> datetime | None:
    """When a night last ended well or had nothing new; before the first one, when the deployment was made."""
    completed = FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.COMPLETED]))
    of = FlowRunFilter(deployment_id=FlowRunFilterDeploymentId(any_=[deployment.id]), state=completed)
    for flow_run in client.read_flow_runs(flow_run_filter=of, sort=FlowRunSort.END_TIME_DESC, limit=200):
        if flow_run.state and (flow_run.state.name == "Completed" or NOTHING_NEW in (flow_run.state.message or "")):
            return flow_run.end_time
    return deployment.created


def _alerts_of(parameters: dict[str, Any]) -> AlertSettings:
    return AlertSettings.model_validate(parameters.get("config", {}).get("alerts", {}))


def _name_in(parameters: dict[str, Any]) -> str:
    """The config's name; empty where the flow run or deployment has no config."""
    return str(parameters.get("config", {}).get("name", ""))
