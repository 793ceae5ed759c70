"""What Prefect's pages show of a run while it trains: progress and where MLflow has it, from a real server."""

from pathlib import Path

import pytest
from prefect import flow, get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId
from prefect.client.schemas.objects import Artifact
from prefect.context import FlowRunContext

import tasks  # noqa: F401  # first: it points Prefect at the tests' workspace
from configs.schema import RunConfig
from gpt2core.training.callback import StepMetrics, StepsDone
from tasks.finetuning import prefect_progress, system_recorder
from tasks.finetuning.prefect_progress import PrefectProgress, artifact_key, tags_of_flow_run
from tasks.finetuning.system_recorder import SystemRecorder
from tasks.runs.run_folder import RunFolder
from tasks.runs.run_record import RunRecord
from tasks.servers.addresses import flow_run_page
from tasks.workspace.folders import Workspace

SIZES = {"n_ctx": 16, "n_embd": 16, "n_head": 2, "n_layer": 1}


def done(step: int) -> StepsDone:
    return StepsDone([StepMetrics(step, 3.5, 1e-3, 1.0)], 1000.0)


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    folder = RunFolder(tmp_path / "Shown_at.once-1")
    folder.path.mkdir()
    config = RunConfig.model_validate({"name": "shown", "model": SIZES}).model_dump(mode="json")
    folder.write_record(RunRecord.model_validate({"id": folder.id, "store": "0" * 32, "config": config}))
    return folder


def artifacts_of(flow_run: object) -> dict[str, Artifact]:
    with get_client(sync_client=True) as client:
        mine = ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[flow_run]))
        return {artifact.key or "": artifact for artifact in client.read_artifacts(artifact_filter=mine)}


def test_progress_is_one_artifact_that_changes_and_the_run_in_mlflow_is_linked_once_known(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prefect_progress, "INTERVAL", 3600.0)  # the thread shows nothing before the end
    Workspace.current().create()
    seen = {}

    @flow
    def training() -> None:
        context = FlowRunContext.get()
        assert context and context.flow_run
        seen["id"], seen["tags"] = context.flow_run.id, tags_of_flow_run()
        with PrefectProgress(folder, steps=200, tokens_per_step=100) as progress, get_client(sync_client=True) as client:
            progress.on_steps_done(done(50))
            progress._show(client)
            progress._link(client)
            before = artifacts_of(seen["id"])
            assert [(key, artifact.data) for key, artifact in before.items()] == [("progress-shown-at-once-1", 25.0)]
            known = {"mlflow_run_id": "abc", "mlflow_experiment_id": "7"}
            folder.write_record(folder.record.model_copy(update=known))
            progress.on_steps_done(done(100))

    training()
    shown = artifacts_of(seen["id"])
    assert sorted(shown) == ["mlflow-shown-at-once-1", "progress-shown-at-once-1"]
    progress = shown[artifact_key("progress", folder)]
    assert progress.data == 50.0
    text = "Step 100 of 200: loss 3.500, learning rate 1.0e-03, 1,000 tokens a second, 10 s of training left"
    assert progress.description == text
    assert "/#/experiments/7/runs/abc)" in str(shown["mlflow-shown-at-once-1"].data)
    assert seen["tags"]["prefect.flow_run_id"] == str(seen["id"])
    assert seen["tags"]["prefect.flow_run_url"] == flow_run_page(seen["id"])


def test_outside_of_a_flow_nothing_is_shown(folder: RunFolder) -> None:
    with PrefectProgress(folder, steps=200, tokens_per_step=100) as progress:
        progress.on_steps_done(done(50))
    assert tags_of_flow_run() == {}


def test_the_machine_is_recorded_at_most_so_often(folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    recorder = SystemRecorder(folder)
    recorder.on_steps_done(done(10))
    assert folder.system.rows() == []
    monkeypatch.setattr(system_recorder, "INTERVAL", 0.0)
    recorder.on_steps_done(done(20))
    recorder.on_steps_done(done(30))
    assert [row["step"] for row in folder.system.rows()] == [20, 30]
    row = folder.system.rows()[1]
    assert 10 < row["system/process_memory_megabytes"] < row["system/system_memory_usage_megabytes"]
    assert {"system/cpu_utilization_percentage", "system/disk_usage_percentage", "system/network_receive_megabytes"} <= set(row)
