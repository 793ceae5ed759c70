"""A sweep: all combinations trained and compared, the best one registered, interrupted and gone on with.

Also tests `tasks.sweeps.outcomes`.
"""

import json
import os
import signal
import subprocess
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
import yaml
from command_line import gpt2flow
from mlflow import MlflowClient
from prefect.artifacts import Artifact
from tiny import tiny_values

from configs.errors import UserError
from configs.grid import Sweep, load_sweep
from flows.sweep import sweep_grid
from gpt2core.training.trainer import Trainer
from tasks.runs.find import all_runs
from tasks.runs.run_folder import RunFolder
from tasks.sweeps.outcomes import BEST_TAG, TAG
from tasks.terminal.stop_signals import Interrupted
from tasks.workspace.folders import Workspace

SlowProcess = Callable[..., AbstractContextManager[subprocess.Popen[str]]]
RATES = "--grid", "train.learning_rate=1e-4,1e-2"


def config_of(folder: Path, name: str, registered: bool = False) -> Path:
    (folder / "a.txt").write_text("".join(f"The {i}th line says that {i * i}.\n\n" for i in range(300)))
    values = tiny_values(name, folder / "a.txt", train={"steps": 4}, registry={"enabled": registered})
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(values))
    return folder / f"{name}.yaml"


def plan_of(config: Path, *grid: str) -> Sweep:
    Workspace.current().create()
    return load_sweep(config, grid, {})


def runs_named(name: str) -> dict[float, RunFolder]:
    """By learning rate."""
    return {run.record.config.train.learning_rate: run for run in all_runs(Workspace.current()) if run.record.name == name}


def test_runs_are_compared_a_failure_loses_no_other_and_the_best_one_is_registered(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = plan_of(config_of(tmp_path, "swept", registered=True), "train.learning_rate=1e-4,1e6,1e-2")
    with pytest.raises(UserError, match="1 of 3 runs failed, as the table says: the same command tries them again"):
        sweep_grid(plan)
    runs = runs_named("swept")
    assert {rate: run.outcome() for rate, run in runs.items()} == {1e-4: "finished", 1e6: "failed", 1e-2: "finished"}
    losses = {rate: min(row["val_loss"] for row in run.evaluations.rows()) for rate, run in runs.items()}
    assert losses[1e-2] < losses[1e-4]

    printed = capsys.readouterr().out
    row = next(line.split() for line in printed.splitlines() if line.startswith("★"))
    assert (row[1], float(row[2]), row[-1]) == ("1e-2", pytest.approx(losses[1e-2], abs=1e-4), runs[1e-2].id)
    assert "train.learning_rate=1e6 failed: The loss is no longer finite" in printed
    artifact = Artifact.get(plan.id)
    assert artifact is not None
    assert [row["run"] for row in json.loads(str(artifact.data))] == [runs[1e-4].id, "failed", runs[1e-2].id]

    client = MlflowClient()
    found = client.search_runs([runs[1e-2].record.mlflow_experiment_id], f"tags.`{TAG}` = '{plan.id}'")
    best = {run.info.run_id: run.data.tags[BEST_TAG] for run in found}
    assert best == {runs[1e-4].record.mlflow_run_id: "false", runs[1e-2].record.mlflow_run_id: "true"}
    (version,) = client.search_model_versions("name = 'swept'")
    assert version.tags["run"] == runs[1e-2].id
    assert client.get_model_version_by_alias("swept", "candidate").version == version.version


def test_a_stopped_sweep_goes_on_and_trains_nothing_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan, update, updates = plan_of(config_of(tmp_path, "stopped-sweep"), RATES[1]), Trainer._update, []

    def counted(trainer: Trainer) -> None:
        updates.append(trainer.step)
        update(trainer)
        if len(updates) == 6:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(Trainer, "_update", counted)
    with pytest.raises(Interrupted):
        sweep_grid(plan)
    assert [run.outcome() for run in runs_named("stopped-sweep").values()] == ["stopped", "finished"]
    result = sweep_grid(plan)
    assert updates == [0, 1, 2, 3] * 2
    assert result is not None
    assert result.run == runs_named("stopped-sweep")[1e-2].id
    assert result.version is None


def test_a_bad_grid_is_refused_before_anything_starts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    done = gpt2flow(capsys, "sweep", "demo", "--grid", "train.steps=3,x", "--data.source", str(tmp_path))
    assert (done.code, done.out) == (2, "")
    assert done.err == "gpt2flow: --grid train.steps is 'x' but should be a whole number.\n"
    lost = gpt2flow(capsys, "sweep", "demo", "--grid", f"data.source={tmp_path / 'nowhere'},{tmp_path}")
    assert (lost.code, lost.out, "nowhere does not exist" in lost.err) == (2, "", True)


@pytest.mark.slow
def test_a_killed_sweep_goes_on_where_it_was(tmp_path: Path, slow_process: SlowProcess) -> None:
    config = config_of(tmp_path, "killed-sweep")
    with slow_process("sweep", str(config), *RATES, until="2 of 2", pause=0.5) as process:
        assert process.stdout is not None
        while "an update begins" not in process.stdout.readline():
            pass
        process.kill()
    first, second = runs_named("killed-sweep")[1e-4], runs_named("killed-sweep")[1e-2]
    assert (first.outcome(), second.outcome()) == ("finished", "stopped")
    before = (first.path / "result.json").stat().st_mtime_ns
    result = sweep_grid(plan_of(config, RATES[1]))
    assert result is not None
    assert result.run == second.id
    assert (first.path / "result.json").stat().st_mtime_ns == before
    assert [row["step"] for row in second.metrics.rows()] == [1, 2, 3, 4]
