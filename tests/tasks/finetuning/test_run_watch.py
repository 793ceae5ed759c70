"""What a run's figures make of alerts, as the trainer, the step recorder and the evaluations report them."""

import json
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

import tasks  # noqa: F401  # first: it points MLflow at the tests' workspace
from configs.schema import RunConfig
from gpt2core.training.callback import StepMetrics, StepsDone
from tasks.finetuning.run_watch import RunWatch, champion_cost
from tasks.finetuning.step_recorder import StepRecorder
from tasks.runs.run_folder import RunFolder
from tasks.runs.run_record import RunRecord
from tasks.workspace.databases import prepare_databases
from tasks.workspace.folders import Workspace

SIZES = {"n_ctx": 16, "n_embd": 16, "n_head": 2, "n_layer": 1}
ROW = {"step": 10.0, "val_loss": 3.0, "perplexity": 20.0, "bits_per_byte": 1.5, "val_tokens": 99.0}


def run_of(path: Path, name: str, **alerts: Any) -> tuple[RunFolder, RunConfig]:
    folder = RunFolder(path)
    path.mkdir(parents=True)
    told = {"file": path / "told.jsonl", "disk_below": 0}
    config = RunConfig.model_validate({"name": name, "model": SIZES, "alerts": {**told, **alerts}})
    folder.write_record(
        RunRecord.model_validate({"id": folder.id, "store": "0" * 32, "config": config.model_dump(mode="json")})
    )
    return folder, config


def told(folder: RunFolder) -> list[tuple[str, str]]:
    file = folder.path / "told.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    return sorted((row["kind"], row["sentence"]) for row in rows)


def done(first: int, losses: list[float], speed: float = 100.0) -> StepsDone:
    return StepsDone([StepMetrics(first + number, loss, 1e-3, 1.0) for number, loss in enumerate(losses)], speed)


def test_a_spike_is_told_with_its_step_also_after_the_log_was_cut_back(tmp_path: Path) -> None:
    folder, config = run_of(tmp_path / "spiky-1", "spiky", repeat_after=1)
    recorder, losses = StepRecorder(folder), [3.0 + 0.01 * (step % 7) for step in range(30)]
    with RunWatch(folder, config) as watch:
        for callback in (recorder, watch):
            callback.on_steps_done(done(1, losses))
        assert told(folder) == []
        folder.metrics.cut_back(25)
        again = done(26, [*losses[25:], 9.0, 3.0])
        for callback in (recorder, watch):
            callback.on_steps_done(again)
    [(kind, sentence)] = told(folder)
    assert kind == "loss spike"
    assert "Run spiky-1: The loss is 9.000 at step 31" in sentence


def test_halved_speed_a_full_disk_nan_and_copies_are_told(tmp_path: Path) -> None:
    folder, config = run_of(tmp_path / "ill-1", "ill", disk_below=10**18, copied_tokens=50)
    with RunWatch(folder, config) as watch:
        for report in range(30):
            watch.on_steps_done(done(report + 1, [3.0], 100.0 if report < 20 else 30.0))
        watch.on_not_finite(StepMetrics(31, float("nan"), 1e-3, 1.0))
        watch.evaluated({**ROW, "sample_longest_copy": 51.0})
    kinds = [kind for kind, _ in told(folder)]
    assert kinds == ["disk low", "memorised", "not finite", "slow"]
    assert "30% of the 100" in dict(told(folder))["slow"]


def test_what_is_switched_off_is_not_told(tmp_path: Path) -> None:
    folder, config = run_of(tmp_path / "calm-1", "calm", copied_tokens=0, not_finite=False)
    with RunWatch(folder, config) as watch:
        watch.on_not_finite(StepMetrics(31, float("nan"), 1e-3, 1.0))
        watch.evaluated({**ROW, "sample_longest_copy": 5100.0})
    assert told(folder) == []


@pytest.fixture(scope="module")
def registry() -> MlflowClient:
    workspace = Workspace.current().create()
    prepare_databases(workspace)
    return MlflowClient()


def test_a_run_that_stays_worse_than_the_champion_of_the_same_text_is_told(registry: MlflowClient) -> None:
    runs = Workspace.current().runs
    best, config = run_of(runs / "contest-best", "contest")
    best.evaluations.append([ROW])
    registry.create_registered_model("contest")
    tags = {"run": best.id, "checkpoint": "step-00000010"}
    version = registry.create_model_version("contest", "file:///nowhere", tags=tags)
    registry.set_registered_model_alias("contest", "champion", version.version)
    worse, config = run_of(runs / "contest-worse", "contest", worse_than_champion=2)
    for step, loss in ((0, 9.0), (10, 3.1), (20, 3.2)):
        with RunWatch(worse, config) as watch:
            worse.evaluations.append([{**ROW, "step": step, "val_loss": loss}])
            watch.evaluated({**ROW, "step": step})
        assert bool(told(worse)) == (step == 20)
    assert told(worse)[0][0] == "worse than champion"


def test_the_champion_s_figure_is_known_where_the_run_begins_from_it_and_not_on_other_text(registry: MlflowClient) -> None:
    runs = Workspace.current().runs
    registry.create_registered_model("heir")
    version = registry.create_model_version("heir", "file:///nowhere", tags={"run": "gone"})
    folder, config = run_of(runs / "heir-1", "heir")
    folder.evaluations.append([{**ROW, "step": 0.0, "val_loss": 4.5}])
    assert champion_cost(folder, config) is None
    registry.set_registered_model_alias("heir", "champion", version.version)
    assert champion_cost(folder, config) is None
    from_it = config.model_copy(update={"model": config.model.model_copy(update={"base": f"models:/heir/{version.version}"})})
    assert champion_cost(folder, from_it) == 4.5
