"""Three weeks of nights on a fast clock: the text grows, something is killed at random, and nothing is lost or doubled."""

import json
import os
import random
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import psutil
import pytest

pytestmark = pytest.mark.slow

NIGHTS = int(os.environ.get("GPT2FLOW_NIGHTS", "21"))
EVERY = 15  # seconds between the starts of two nights
VICTIMS = [(), (), ("training",), ("worker",), ("worker", "training"), ("Prefect",), ("MLflow",), ("up",)]
VICTIMS += [("up", "worker", "Prefect", "MLflow", "training")]
VERSIONS = """
import json, sys
import tasks
from mlflow import MlflowClient
client = MlflowClient()
present = [version.tags["run"] for version in client.search_model_versions(f"name = '{sys.argv[1]}'")]
tags = client.get_registered_model(sys.argv[1]).tags
gone = [json.loads(value)["run"] for key, value in tags.items() if key.startswith("gpt2flow.gone.")]
print(json.dumps([present, gone]))
"""


def nights(up: Any) -> list[dict[str, Any]]:
    found = [json.loads(file.read_text()) for file in (up.workspace.nights / "weeks").glob("*.json")]
    return sorted((night for night in found if night["ended"]), key=lambda night: night["ended"])


def size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def processes_of(up: Any) -> list[psutil.Process]:
    """Every process of the workspace that is not one of `up`'s own."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("GPT2FLOW_HOME") == str(up.workspace.root) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.Error:
            continue
    leaders = [psutil.Process(pid) for pid in up.pids().values()]
    own = {process.pid for leader in leaders for process in (leader, *leader.children(recursive=True))}
    return [process for process in found if process.pid not in own]


def test_three_weeks_of_nights_lose_nothing_and_double_nothing(
    up: Any, wait_until: Any, tmp_path: Path, pytestconfig: pytest.Config
) -> None:
    draw, folder, sizes, killed = random.Random(7), tmp_path / "texts", [], []
    folder.mkdir()
    train = {"steps": 400, "checkpoint_every": 100, "learning_rate": 1e-3}
    schedule = {"every": EVERY, "back_off": 1, "attempts": 20, "gc": True}
    gc = {"keep_versions": 1, "older_than": 0}
    config = up.config("weeks", folder, train=train, schedule=schedule, gc=gc, registry={"enabled": True})
    for night in range(NIGHTS):
        notes = [f"Night {night}, note {number}: {night * number} things were seen." for number in range(60)]
        new = "".join(json.dumps({"text": note}) + "\n" for note in notes)
        (tmp_path / "new.jsonl").write_text(new)
        (tmp_path / "new.jsonl").rename(folder / f"night-{night:02}.jsonl")
        if not night:
            up.gpt2flow("deploy", config)
        victims = draw.choice(VICTIMS)
        time.sleep(draw.uniform(0, EVERY))
        killed.append(kill(up, victims))
        wait_until(lambda ended=night: len(nights(up)) > ended)
        sizes.append(size(up.workspace.root))
    done = nights(up)
    assert len(done) == NIGHTS
    assert done[0]["base"] == "scratch"
    command = [sys.executable, "-c", VERSIONS, "weeks"]
    up.gpt2flow("pause", "weeks")
    wait_until(lambda: not up.alive() and not processes_of(up))
    up.gpt2flow("gc", "--keep_versions", "1", "--older_than", "0s")  # a kill may have cut the last one short
    present, gone = json.loads(subprocess.run(command, env=up.environment, capture_output=True, check=True).stdout)
    assert sorted(present + gone) == sorted(night["run"] for night in done)
    assert len({*present, *gone}) == NIGHTS
    assert len(present) <= 4  # champion, previous, candidate, and one without alias
    assert len(list(up.workspace.stores.glob("*/"))) <= len(present)
    assert len(list(up.workspace.runs.glob("*/checkpoints/step-*"))) <= 1
    states = {run["state_type"] for run in up.flow_runs("weeks") if run["run_count"]}
    assert states == {"COMPLETED"}
    growth = [after - before for before, after in pairwise(sizes)]
    with pytestconfig.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
        print(f"\nkilled: {killed}\nbytes a night: {growth}\nchampions: {sum(night['promoted'] for night in done)} of {NIGHTS}")
        for database in ("prefect/prefect.db", "mlflow/mlflow.db"):
            print(f"{database}: {(up.workspace.root / database).stat().st_size:,} bytes")
        print(f"flow runs: {len(up.flow_runs('weeks'))}")
    week = max(1, len(growth) // 3)
    assert sum(growth[-week:]) < 3 * sum(growth[:week])


def kill(up: Any, names: tuple[str, ...]) -> tuple[str, ...]:
    """What of it is there, and start again what nobody else does."""
    there = tuple(name for name in names if name in up.pids() or (name == "training" and up.alive()))
    up.kill(*there)
    if "up" in there:
        up.start()
    return there
