"""Deployments: what Prefect's server is to start by itself, made, listed, paused, started by hand and removed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from prefect import Flow, get_client
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import (
    DeploymentFilter,
    DeploymentFilterTags,
    FlowRunFilter,
    FlowRunFilterDeploymentId,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.client.schemas.responses import DeploymentResponse
from prefect.client.schemas.schedules import CronSchedule, IntervalSchedule
from prefect.client.schemas.sorting import FlowRunSort
from prefect.deployments.runner import RunnerDeployment
from prefect.events import DeploymentEventTrigger
from prefect.events.schemas.automations import Posture
from prefect.types.entrypoint import EntrypointType
from pydantic import ValidationError

from configs.alerts import AlertSettings
from configs.errors import UserError
from configs.schedule import ScheduleSettings
from configs.schema import RunConfig
from tasks.scheduling.worker import TAG

NO_LABEL = "gpt2flow.label-of-no-resource"


@dataclass(frozen=True)
class Deployment:
    """A deployment as people see it."""

    name: str
    schedule: str
    paused: bool
    served: bool
    """Whether a worker looks for its flow runs."""
    next_start: datetime | None
    last: FlowRun | None


def deploy_night(night: Flow[..., Any], config: RunConfig) -> str:
    """Deploy the flow with this config under the config's name, or change that deployment; returns the name.

    Raises UserError where the schedule is none.
    """
    schedule = _prefect_schedule(config.schedule)
    parameters = {"config": with_absolute_sources(config).model_dump(mode="json")}
    offer(night, config.name, parameters, [schedule] if schedule else [], _event_triggers(config.schedule))
    return config.name


def offer(
    flow: Flow[..., Any],
    name: str,
    parameters: dict[str, Any] | None = None,
    schedules: list[CronSchedule | IntervalSchedule] | None = None,
    triggers: list[DeploymentEventTrigger] | None = None,
) -> None:
    """Make or change a deployment that a worker of this workspace takes flow runs of."""
    deployment = RunnerDeployment.from_flow(
        flow,
        name,
        parameters=parameters,
        schedules=schedules,
        triggers=list(triggers or []),
        tags=[TAG],
        entrypoint_type=EntrypointType.MODULE_PATH,
    )
    with get_client(sync_client=True) as client:
        for old in _find(client, [name]) if schedules is not None else []:
            for each in old.schedules:
                client.delete_deployment_schedule(old.id, each.id)
    deployment.apply()


def list_deployments() -> list[Deployment]:
    """All nights, by name."""
    with get_client(sync_client=True) as client:
        return [_describe(found, client) for found in _nights(client)]


def pause(name: str, paused: bool) -> None:
    """Start nothing any more until it is resumed, or start again."""
    with _one(name) as (client, deployment):
        (client.pause_deployment if paused else client.resume_deployment)(deployment.id)


def trigger(name: str) -> FlowRun:
    """Start the night now; one that waits to be started already is returned instead of a second one."""
    with _one(name) as (client, deployment):
        waiting = _flow_runs(client, deployment, FlowRunSort.EXPECTED_START_TIME_DESC, [StateType.SCHEDULED])
        asked = [flow_run for flow_run in waiting if not flow_run.auto_scheduled and not flow_run.run_count]
        return asked[0] if asked else client.create_flow_run_from_deployment(deployment.id)


def undeploy(name: str) -> None:
    """Remove the deployment; its runs stay, and what trains goes on."""
    with _one(name) as (client, deployment):
        client.delete_resource_owned_automations(f"prefect.deployment.{deployment.id}")
        client.delete_deployment(deployment.id)


def nights_that_read(folder: Path) -> list[str]:
    """Names of the deployments whose text lies in the folder, or that read the folder or one above it."""
    wanted = folder.resolve()
    with get_client(sync_client=True) as client:
        return [found.name for found in _nights(client) if any(_overlaps(source, wanted) for source in _sources(found))]


def with_absolute_sources(config: RunConfig) -> RunConfig:
    """The config as it is meant from any folder: a worker need not stand where the user stood."""
    data = config.data

    def absolute(source: str) -> str:
        return (
            str(Path(source).absolute()) if "://" not in source and not source.startswith(("builtin:", "dataset:")) else source
        )

    changed = {key: [absolute(source) for source in getattr(data, key)] for key in ("source", "validation_source")}
    tokenizer, model = config.tokenizer, config.model
    if Path(tokenizer.source).exists():
        tokenizer = tokenizer.model_copy(update={"source": str(Path(tokenizer.source).absolute())})
    if Path(model.base).is_dir():
        model = model.model_copy(update={"base": str(Path(model.base).absolute())})
    sections = {"data": data.model_copy(update=changed), "tokenizer": tokenizer, "model": model}
    return config.model_copy(update={**sections, "alerts": _with_absolute_places(config.alerts)})


def _with_absolute_places(alerts: AlertSettings) -> AlertSettings:
    places = [
        f"file:{Path(place.removeprefix('file:')).expanduser().absolute()}" if place.startswith("file:") else place
        for place in alerts.addresses
    ]
    return alerts.model_copy(update={"addresses": places, "file": alerts.file.absolute() if alerts.file else None})


def _prefect_schedule(settings: ScheduleSettings) -> CronSchedule | IntervalSchedule | None:
    try:
        if settings.cron:
            return CronSchedule(cron=settings.cron, timezone=settings.timezone)
    except ValidationError:
        raise UserError(f"--cron {settings.cron!r} is no cron schedule: '0 3 * * *' is three o'clock every day.") from None
    if settings.every:
        return IntervalSchedule(interval=timedelta(seconds=settings.every), timezone=settings.timezone)
    return None


def _event_triggers(settings: ScheduleSettings) -> list[DeploymentEventTrigger]:
    """One that fires when the event has come and then, for as long as `settle` says, not come again.

    Prefect begins to count anew with each event that is both what it waits after and what it expects. A trigger that tells no
    resources apart begins to count without any event, though, and fires for ever; one that asks for a label which no resource
    has counts the events of all of them together.
    """
    if settings.on_event is None:
        return []
    event, within = {settings.on_event}, timedelta(seconds=settings.settle)
    return [DeploymentEventTrigger(posture=Posture.Proactive, after=event, expect=event, within=within, for_each={NO_LABEL})]


def _find(client: SyncPrefectClient, names: list[str] | None = None) -> list[DeploymentResponse]:
    found = client.read_deployments(deployment_filter=DeploymentFilter(tags=DeploymentFilterTags(all_=[TAG])))
    return [each for each in found if names is None or each.name in names]


def _nights(client: SyncPrefectClient) -> list[DeploymentResponse]:
    return sorted((found for found in _find(client) if "config" in found.parameters), key=lambda found: found.name)


@contextmanager
def _one(name: str) -> Iterator[tuple[SyncPrefectClient, DeploymentResponse]]:
    with get_client(sync_client=True) as client:
        nights = _nights(client)
        for found in nights:
            if found.name == name:
                yield client, found
                return
        known = ", ".join(found.name for found in nights) or "none yet: make one with gpt2flow deploy CONFIG --every 6h"
        raise UserError(f"There is no deployment '{name}'. Deployments: {known}.")


def _describe(found: DeploymentResponse, client: SyncPrefectClient) -> Deployment:
    settings = ScheduleSettings.model_validate(found.parameters["config"].get("schedule", {}))
    ended = [kind for kind in StateType if kind is not StateType.SCHEDULED]
    last = _flow_runs(client, found, FlowRunSort.START_TIME_DESC, ended)
    coming = _flow_runs(client, found, FlowRunSort.NEXT_SCHEDULED_START_TIME_ASC, [StateType.SCHEDULED])
    served = str(getattr(found.status, "value", found.status)) == "READY"
    next_start = coming[0].next_scheduled_start_time if coming else None
    return Deployment(found.name, _schedule_text(settings), bool(found.paused), served, next_start, last[0] if last else None)


def _schedule_text(settings: ScheduleSettings) -> str:
    cron = f"{settings.cron} ({settings.timezone})" if settings.cron else ""
    every = f"every {timedelta(seconds=settings.every)}" if settings.every else ""
    event = f"on {settings.on_event}" if settings.on_event else ""
    return ", ".join(filter(None, (cron, every, event))) or "by hand"


def _flow_runs(
    client: SyncPrefectClient, of: DeploymentResponse, sort: FlowRunSort, kinds: Sequence[StateType]
) -> list[FlowRun]:
    deployment = FlowRunFilterDeploymentId(any_=[of.id])
    state = FlowRunFilterState(type=FlowRunFilterStateType(any_=list(kinds)))
    return client.read_flow_runs(flow_run_filter=FlowRunFilter(deployment_id=deployment, state=state), sort=sort, limit=20)


def _sources(deployment: DeploymentResponse) -> list[str]:
    return list(deployment.parameters["config"]["data"]["source"])


def _overlaps(source: str, folder: Path) -> bool:
    path = Path(source).resolve()
    return path.is_relative_to(folder) or folder.is_relative_to(path)
