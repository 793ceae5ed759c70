"""Deployments on a real Prefect server: made, changed, paused, started, removed."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from prefect import flow, get_client
from prefect.events import EventTrigger
from tiny import SMALLEST

import tasks  # noqa: F401  # first: it points Prefect at the tests' workspace
from configs.errors import UserError
from configs.schema import RunConfig
from tasks.scheduling.deployments import (
    deploy_night,
    list_deployments,
    nights_that_read,
    offer,
    pause,
    trigger,
    undeploy,
    with_absolute_sources,
)
from tasks.workspace.folders import Workspace


@flow
def night(config: RunConfig) -> None:
    """Stands for the flow, which needs PyTorch."""


@flow
def evaluation(step: int) -> None:
    """What a worker takes beside nights."""


def config_of(name: str, **sections: object) -> RunConfig:
    return RunConfig.model_validate({"name": name, "model": SMALLEST, **sections})


@pytest.fixture(autouse=True)
def deployed() -> Iterator[None]:
    Workspace.current().create()
    yield
    for each in list_deployments():
        undeploy(each.name)


def test_the_form_in_prefects_page_has_the_settings_descriptions_and_limits() -> None:
    deploy_night(night, config_of("form"))
    with get_client(sync_client=True) as client:
        schema = client.read_deployment_by_name("night/form").parameter_openapi_schema
    assert schema is not None
    train = schema["definitions"]["TrainSettings"]["properties"]
    assert train["accumulate"]["minimum"] == 1
    assert train["learning_rate"]["description"] == "Peak learning rate."
    attempts = schema["definitions"]["ScheduleSettings"]["properties"]["attempts"]
    assert "resumed" in attempts["description"]


def test_a_deployment_is_changed_by_deploying_it_again() -> None:
    deploy_night(night, config_of("changed", schedule={"cron": "0 3 * * *", "timezone": "Europe/Berlin"}))
    assert [each.schedule for each in list_deployments()] == ["0 3 * * * (Europe/Berlin)"]
    deploy_night(night, config_of("changed", schedule={"every": "6h"}))
    assert [each.schedule for each in list_deployments()] == ["every 6:00:00"]
    deploy_night(night, config_of("changed"))
    assert [each.schedule for each in list_deployments()] == ["by hand"]
    with get_client(sync_client=True) as client:
        assert client.read_deployment_by_name("night/changed").schedules == []


def test_an_event_is_listened_to_as_long_as_the_deployment_says_so() -> None:
    def heard() -> list[set[str]]:
        with get_client(sync_client=True) as client:
            return [each.trigger.expect for each in client.read_automations() if isinstance(each.trigger, EventTrigger)]

    deploy_night(night, config_of("event", schedule={"on_event": "text.arrived", "every": "6h"}))
    deploy_night(night, config_of("event", schedule={"on_event": "text.changed"}))
    assert heard() == [{"text.changed"}]
    assert [each.schedule for each in list_deployments()] == ["on text.changed"]
    undeploy("event")
    assert heard() == []


def test_a_trigger_does_not_fire_without_an_event() -> None:
    """Prefect fires one that waits for silence and tells no resources apart again and again, though nothing has come."""
    deploy_night(night, config_of("silent", schedule={"on_event": "text.arrived"}))
    with get_client(sync_client=True) as client:
        (trigger,) = (each.trigger for each in client.read_automations() if isinstance(each.trigger, EventTrigger))
    assert trigger.for_each


def test_only_nights_are_listed_and_one_is_paused_and_resumed() -> None:
    offer(evaluation, "a worker's")
    deploy_night(night, config_of("paused", schedule={"every": "1h"}))
    pause("paused", True)
    assert [(each.name, each.paused) for each in list_deployments()] == [("paused", True)]
    pause("paused", False)
    assert [(each.name, each.paused) for each in list_deployments()] == [("paused", False)]


def test_many_triggers_make_one_flow_run_as_long_as_it_has_not_begun() -> None:
    deploy_night(night, config_of("often"))
    assert len({trigger("often").id for _ in range(5)}) == 1


def test_a_name_that_is_not_deployed_is_answered_with_those_that_are() -> None:
    deploy_night(night, config_of("known"))
    with pytest.raises(UserError, match=r"no deployment 'unknown'\. Deployments: known"):
        trigger("unknown")


def test_what_is_no_cron_schedule_is_said_before_anything_is_deployed() -> None:
    with pytest.raises(UserError, match="'at night' is no cron schedule"):
        deploy_night(night, config_of("bad", schedule={"cron": "at night"}))
    assert list_deployments() == []


def test_the_deployments_of_a_folder_are_those_whose_text_lies_there(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        deploy_night(night, config_of(name, data={"source": str(tmp_path / name)}))
    deploy_night(night, config_of("builtin"))
    assert nights_that_read(tmp_path / "a") == ["a"]
    assert nights_that_read(tmp_path / "a" / "inside") == ["a"]
    assert nights_that_read(tmp_path) == ["a", "b"]


def test_a_deployed_config_means_the_same_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model").mkdir()
    sources = ["texts", "s3://bucket/x", "builtin:python-topics", "dataset:a:train", "/there"]
    config = config_of("where", data={"source": sources}).model_copy(deep=True)
    config = config.model_copy(update={"model": config.model.model_copy(update={"base": "model"})})
    absolute = with_absolute_sources(config)
    assert absolute.data.source == [str(tmp_path / "texts"), *sources[1:]]
    assert absolute.model.base == str(tmp_path / "model")
