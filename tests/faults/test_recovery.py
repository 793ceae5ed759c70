"""The recovery matrix: what was killed x when -> what became of the night. `make test-recovery` shows it as a table.

Its short form, everything killed in the middle of training, is in test_nights.py and runs always.
"""

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from configs.loading import load_config
from flows.finetune import finetune
from tasks.runs.run_folder import RunFolder

pytestmark = pytest.mark.slow

STEPS = 1500
UNDER_WAY = 300  # steps; what is killed then has seconds left to train
TRAIN = {"steps": STEPS, "checkpoint_every": 100, "keep_checkpoints": 2}
STALLED_AFTER = 30  # seconds; also the first imports of a flow run must be through by then
EVERYTHING = ("up", "worker", "Prefect", "MLflow", "training")
MATRIX = [
    # when, what is killed, how often the flow run begins then; "hang" stops the training process and lets it live
    ("submitting", ("training",), 1),
    ("submitting", ("worker", "training"), 1),
    ("submitting", EVERYTHING, 1),
    ("training", ("training",), 2),
    ("training", ("worker",), 1),  # the child lives on without a parent
    ("training", ("worker", "training"), 2),
    ("training", ("Prefect",), 1),
    ("training", ("MLflow",), 1),
    ("training", ("Prefect", "training"), 2),
    ("training", ("up",), 1),
    ("training", EVERYTHING, 2),
    ("training", ("hang",), 2),
    ("registering", ("training",), 2),
    ("registering", EVERYTHING, 2),
]


@pytest.fixture(scope="module")
def table(pytestconfig: pytest.Config) -> Iterator[list[tuple[str, ...]]]:
    """Rows of the matrix, shown at the end."""
    rows = [("when", "killed", "state", "begun", "weights", "MLflow", "seconds until it went on")]
    yield rows
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
    with pytestconfig.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
        print("\n\n" + "\n".join(lines))


@pytest.fixture(scope="module")
def undisturbed(up: Any, final_weights: Any, text: Path) -> bytes:
    """The weights that a run ends with which nobody disturbs, in the tests' own workspace."""
    config = load_config(Path(up.config("undisturbed", text, train=TRAIN)))
    return bytes(final_weights(RunFolder(Path(finetune(config).folder))))


def deploy(up: Any, name: str, text: Path) -> None:
    schedule = {"stalled_after": STALLED_AFTER}
    up.gpt2flow("deploy", up.config(name, text, train=TRAIN, schedule=schedule, registry={"enabled": True}))


def has_come_to(up: Any, name: str, when: str) -> bool:
    if when == "submitting":
        return bool(up.alive()) and up.flow_runs(name)[0]["state_type"] == "PENDING"
    return bool(up.step(name) > UNDER_WAY) if when == "training" else bool(up.step(name) == STEPS)


def mlflow(up: Any, name: str) -> dict[str, Any]:
    """What MLflow's server knows of a night's runs and versions."""
    runs = up.mlflow.search_runs([up.mlflow.get_experiment_by_name(name).experiment_id])
    steps = [metric.step for metric in up.mlflow.get_metric_history(runs[0].info.run_id, "loss")]
    versions = up.mlflow.search_model_versions(f"name = '{name}'")
    return {"runs": [run.info.status for run in runs], "versions": len(versions), "steps": steps}


@pytest.mark.parametrize("case", MATRIX, ids=lambda case: f"{case[0]}-{'+'.join(case[1])}")
def test_a_night_is_found_resumed_and_ends_as_if_nothing_had_happened(
    up: Any, wait_until: Any, final_weights: Any, undisturbed: bytes, table: list[tuple[str, ...]], text: Path, case: Any
) -> None:
    when, killed, begun = case
    name = f"night-{MATRIX.index(case)}"
    deploy(up, name, text)
    up.trigger(name)
    wait_until(lambda: has_come_to(up, name, when))
    at, before, lives_on = time.monotonic(), up.step(name), not {"training", "hang"} & {*killed}
    up.kill(*killed)
    if "up" in killed and not lives_on:
        up.start()
    wait_until(lambda: up.step(name) > before or up.ended(name))
    waited = time.monotonic() - at
    if "up" in killed and lives_on:
        up.start()
    wait_until(lambda: up.ended(name))
    (night,) = up.ended(name)
    same, found = final_weights(up.run_of(name)) == undisturbed, mlflow(up, name)
    told = found == {"runs": ["FINISHED"], "versions": 1, "steps": list(range(1, STEPS + 1))}
    words = ("bit-identical" if same else "DIFFERENT", "one run, one version" if told else str(found)[:80], f"{waited:.0f}")
    table.append((when, " + ".join(killed), night["state_name"], str(night["run_count"]), *words))
    assert night["state_name"] == "Completed"
    assert begun <= night["run_count"] <= begun + ("Prefect" in killed)  # its end may fall into the time without a server
    assert same
    assert told
    assert stages_under_way(up, night) == []


def stages_under_way(up: Any, flow_run: dict[str, Any]) -> list[str]:
    """Names of its stages that Prefect still shows as running."""
    running = {"task_runs": {"state": {"type": {"any_": ["PENDING", "RUNNING"]}}}}
    return [
        found["name"] for found in up.ask("/task_runs/filter", {"flow_runs": {"id": {"any_": [flow_run["id"]]}}, **running})
    ]


def cancel(up: Any, name: str) -> None:
    """As in Prefect's page."""
    up.ask(f"/flow_runs/{up.flow_runs(name)[0]['id']}/set_state", {"state": {"type": "CANCELLING"}})


def note_cancelled(up: Any, wait_until: Any, name: str, killed: str, table: list[tuple[str, ...]]) -> None:
    """Wait until the cancel is heard, and see that both pages say so."""
    at = time.monotonic()
    wait_until(lambda: up.flow_runs(name)[0]["state_type"] == "CANCELLED")
    wait_until(lambda: not up.alive())
    waited = time.monotonic() - at
    wait_until(lambda: mlflow(up, name)["runs"] == ["KILLED"])
    (night,) = up.flow_runs(name)
    table.append(("training", killed, night["state_name"], str(night["run_count"]), "kept", "KILLED", f"{waited:.0f}"))
    assert up.run_of(name).state() == "stopped"


def test_a_cancel_is_heard_by_a_night_whose_worker_is_dead(
    up: Any, wait_until: Any, table: list[tuple[str, ...]], text: Path
) -> None:
    deploy_long(up, wait_until, "orphan", text)
    up.kill("worker")
    cancel(up, "orphan")
    note_cancelled(up, wait_until, "orphan", "worker, then a cancel", table)


def test_a_cancel_is_heard_after_the_server_was_away_for_45_seconds(
    up: Any, wait_until: Any, table: list[tuple[str, ...]], text: Path
) -> None:
    deploy_long(up, wait_until, "away", text)
    os.kill(up.pids()["up"], signal.SIGSTOP)  # or it would start the server again at once
    up.kill("Prefect")
    before = up.step("away")
    time.sleep(45)
    assert up.step("away") > before
    os.kill(up.pids()["up"], signal.SIGCONT)
    wait_until(up.is_served)
    cancel(up, "away")
    note_cancelled(up, wait_until, "away", "Prefect for 45 s, then a cancel", table)
    deploy_long(up, wait_until, "after-it", text)  # the worker is as well as before
    cancel(up, "after-it")
    note_cancelled(up, wait_until, "after-it", "nothing, a cancel after that", table)


def test_while_a_killed_night_waits_both_pages_say_so(up: Any, wait_until: Any, text: Path) -> None:
    up.gpt2flow("deploy", up.config("waiting", text, train={"steps": STEPS}, schedule={"back_off": 60}))
    up.trigger("waiting")
    wait_until(lambda: up.step("waiting") > UNDER_WAY)
    up.kill("training")
    wait_until(lambda: up.flow_runs("waiting")[0]["state_name"] == "AwaitingRetry")
    assert "died (attempt 1 of 5)" in up.flow_runs("waiting")[0]["state"]["message"]
    wait_until(lambda: mlflow(up, "waiting")["runs"] == ["KILLED"])
    assert up.flow_runs("waiting")[0]["state_name"] == "AwaitingRetry"
    wait_until(lambda: up.ended("waiting"))
    assert mlflow(up, "waiting")["runs"] == ["FINISHED"]


def deploy_long(up: Any, wait_until: Any, name: str, text: Path) -> None:
    """A night that does not end by itself, and is under way."""
    up.gpt2flow("deploy", up.config(name, text, train={"steps": 10**6, "checkpoint_every": 500, "keep_checkpoints": 1}))
    up.trigger(name)
    wait_until(lambda: up.step(name) > 100)
