"""Nights under `gpt2flow up`: they come by themselves, know what is new, go on from the champion, and survive kill -9."""

import json
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from prefect_requests import ask

from configs.loading import load_config
from flows.finetune import finetune
from tasks.runs.run_folder import RunFolder


def registry(up: Any, name: str) -> dict[str, dict[str, str]]:
    """What MLflow's server says: versions with their runs, aliases with their versions."""
    versions = up.mlflow.search_model_versions(f"name = '{name}'")
    aliases = up.mlflow.get_registered_model(name).aliases
    return {
        "versions": {str(version.version): version.tags["run"] for version in versions},
        "aliases": {alias: str(version) for alias, version in aliases.items()},
    }


def nights(up: Any, name: str) -> list[dict[str, Any]]:
    return sorted(
        (json.loads(file.read_text()) for file in (up.workspace.nights / name).glob("*.json")), key=lambda night: night["begun"]
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of text to which a night's text is added."""
    folder: Path = tmp_path_factory.mktemp("growing")
    write_documents(folder / "a.jsonl", [f"The {i}th line says that {i} times {i} is {i * i}." for i in range(400)])
    return folder


def write_documents(file: Path, texts: list[str]) -> None:
    """A document a line, so that enough of them are held out for a verdict."""
    file.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))


def test_an_interval_deployment_fires_twice_and_the_second_time_finds_nothing_new(
    up: Any, wait_until: Any, folder: Path
) -> None:
    config = up.config("twice", folder, registry={"enabled": True})
    assert "every 0:00:05" in up.gpt2flow("deploy", config, "--every", "5s")
    wait_until(lambda: len(up.ended("twice")) >= 2)
    assert "twice" in up.gpt2flow("pause", "twice")
    first, second = up.ended("twice")[:2]
    assert (first["state_type"], first["state_name"]) == ("COMPLETED", "Completed")
    assert (second["state_type"], second["state_name"]) == ("COMPLETED", "Skipped")
    assert "nothing new" in second["state"]["message"]
    assert registry(up, "twice")["aliases"]["champion"] == "1"


@pytest.mark.slow
def test_new_text_is_trained_from_the_champion_on_and_only_it_is_encoded(up: Any, wait_until: Any, folder: Path) -> None:
    write_documents(folder / "b.jsonl", [f"A new line, the {i}th, says something else: {i + 7}." for i in range(100)])
    before = len(up.ended("twice"))
    up.gpt2flow("trigger", "twice")
    wait_until(lambda: len(up.ended("twice")) > before)
    assert up.ended("twice")[-1]["state_name"] == "Completed"
    first, second = nights(up, "twice")
    assert first["base"] == "scratch"
    assert second["base"] == "models:/twice/1"
    assert registry(up, "twice")["versions"] == {"1": first["run"], "2": second["run"]}
    assert second["promoted"] == (registry(up, "twice")["aliases"]["champion"] == "2")


def test_everything_killed_at_once_is_found_and_ends_with_the_same_weights(
    up: Any, wait_until: Any, final_weights: Any, folder: Path
) -> None:
    config = up.config("killed", folder, train={"steps": 1000, "checkpoint_every": 100})
    up.gpt2flow("deploy", config)
    up.trigger("killed")
    wait_until(lambda: up.step("killed") > 200)
    up.kill("up", "worker", "Prefect", "MLflow", "training")
    wait_until(lambda: up.run_of("killed").state() == "stopped")
    up.start()
    undisturbed = RunFolder(Path(finetune(load_config(Path(config))).folder))  # in the tests' own workspace
    wait_until(lambda: up.ended("killed"))
    (night,) = up.ended("killed")
    assert (night["state_name"], night["run_count"]) == ("Completed", 2)
    assert final_weights(up.run_of("killed")) == final_weights(undisturbed)


def emit(up: Any, event: str, resource: str) -> float:
    """Send an event to Prefect's server; returns when it took place, as seconds since 1970."""
    now = datetime.now(UTC)
    told = {"id": str(uuid4()), "event": event, "occurred": now.isoformat(), "resource": {"prefect.resource.id": resource}}
    ask(f"http://127.0.0.1:{up.ports[1]}/api/events", [told])
    return now.timestamp()


@pytest.mark.slow
def test_many_events_begin_one_night_once_they_have_ceased(up: Any, wait_until: Any, folder: Path) -> None:
    settle = 10
    config = up.config("event", folder, schedule={"settle": settle})
    assert "on text.arrived" in up.gpt2flow("deploy", config, "--on_event", "text.arrived")
    time.sleep(2.5 * settle)  # Prefect looks every five seconds
    assert up.flow_runs("event") == []
    last = 0.0
    for number in range(5):
        last = emit(up, "text.arrived", f"text-{number % 2}")
        time.sleep(settle / 3)
    wait_until(lambda: up.ended("event"))
    time.sleep(2.5 * settle)
    (night,) = up.flow_runs("event")
    assert night["created_by"]["type"] == "AUTOMATION"
    assert settle <= datetime.fromisoformat(night["created"]).timestamp() - last < 3 * settle
    assert night["state_name"] == "Completed"
    emit(up, "text.arrived", "text-0")
    wait_until(lambda: len(up.ended("event")) == 2)
    assert up.ended("event")[1]["state_name"] == "Skipped"


@pytest.mark.slow
def test_ctrl_c_stops_everything_and_what_trains_goes_on_at_the_next_start(up: Any, wait_until: Any, folder: Path) -> None:
    up.gpt2flow("deploy", up.config("stopped", folder, train={"steps": 8000, "checkpoint_every": 4000}))
    up.trigger("stopped")
    wait_until(lambda: up.step("stopped") > 300)
    up.stop()
    assert not up.alive()
    assert not up.pids()
    stopped_at = up.step("stopped")
    assert up.run_of("stopped").state() == "stopped"
    up.start()
    wait_until(lambda: up.ended("stopped"))
    (night,) = up.ended("stopped")
    assert (night["state_name"], night["run_count"]) == ("Completed", 2)
    assert 300 < stopped_at < 8000
    assert "died" not in json.dumps(night)
