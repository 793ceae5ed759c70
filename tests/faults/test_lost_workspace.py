"""A disk is lost while `gpt2flow up` trains: a backup made meanwhile is put back, and the night ends as if nothing had been.

Its short forms, a copy made while everything changes and a restore that is killed, are in tests/tasks/maintenance.
"""

import shutil
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow

STEPS = 4000
EVERYTHING = ("up", "worker", "Prefect", "MLflow", "training")


def deploy(up: Any, name: str, text: Path) -> None:
    train = {"steps": STEPS, "checkpoint_every": 200, "keep_checkpoints": 2}
    up.gpt2flow("deploy", up.config(name, text, train=train, registry={"enabled": True}))
    up.trigger(name)


def test_a_night_of_a_lost_workspace_ends_with_the_same_weights(
    up: Any, wait_until: Any, final_weights: Any, text: Path, tmp_path: Path
) -> None:
    deploy(up, "undisturbed", text)
    wait_until(lambda: up.ended("undisturbed"))
    undisturbed = final_weights(up.run_of("undisturbed"))
    deploy(up, "lost", text)
    wait_until(lambda: up.step("lost") > 500)
    assert "run undisturbed" not in up.gpt2flow("gc", "--older_than", "0s")  # the latest of its name, and one that trains
    before, file = up.step("lost"), tmp_path / "backup.tar"
    assert "read back and whole" in up.gpt2flow("backup", str(file))
    copied = up.step("lost")
    assert before < copied < STEPS
    wait_until(lambda: up.step("lost") > copied + 200)
    up.kill(*EVERYTHING)
    wait_until(lambda: up.run_of("lost").state() == "stopped")
    shutil.rmtree(up.workspace.root)
    up.gpt2flow("restore", str(file))
    assert 0 < up.step("lost") <= copied
    up.start()
    wait_until(lambda: up.ended("lost"))
    (night,) = up.ended("lost")
    assert (night["state_name"], night["run_count"]) == ("Completed", 2)
    assert final_weights(up.run_of("lost")) == undisturbed
    (run,) = up.mlflow.search_runs([up.mlflow.get_experiment_by_name("lost").experiment_id])
    assert run.info.status == "FINISHED"
    losses = up.mlflow.get_metric_history(run.info.run_id, "loss")
    assert [metric.step for metric in losses] == list(range(1, STEPS + 1))
    assert len(up.mlflow.search_model_versions("name = 'lost'")) == 1
