"""Evaluations in flow runs of their own: a real worker in another process, and a real Prefect server.

Also tests `tasks.evaluation.by_worker`, `tasks.evaluation.checkpoint`, `tasks.evaluation.in_process`,
`tasks.evaluation.outside`.
"""

import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from tiny import tiny_run

from configs.schema import RunConfig
from flows.finetune import finetune
from gpt2core.checkpoints.checkpoint import find_checkpoints, read_state
from gpt2core.training.trainer import Trainer
from tasks.evaluation import by_worker
from tasks.evaluation.by_worker import (
    DEPLOYMENT,
    FLOW,
    DeploymentStatus,
    ObjectNotFound,
    StateType,
    WorkerEvaluation,
    get_client,
    hand_to_worker,
)
from tasks.evaluation.checkpoint import identity, read_row
from tasks.evaluation.in_process import ProcessEvaluation
from tasks.runs.flow_run_locks import FlowRunLock
from tasks.runs.run_folder import RunFolder
from tasks.workspace.folders import Workspace

PATIENCE = 600.0  # seconds; a busy machine takes minutes to start servers


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file: Path = tmp_path_factory.mktemp("text") / "a.txt"
    file.write_text("".join(f"The {i}th line says that {i} times {i} is {i * i}.\n\n" for i in range(300)))
    return file


def config_of(name: str, source: Path, where: str, **others: object) -> RunConfig:
    """`others` are settings of `evaluate`, and `train` those of `train`."""
    train = {"warmup_steps": 100, "learning_rate": 1e-2, "on_divergence": "rewind", **others.pop("train", {})}
    return tiny_run(name, source, data={"mask_documents": True}, train=train, evaluate={"where": where, **others})


@pytest.fixture(scope="module")
def worker(prefect_url: str) -> Iterator[subprocess.Popen[bytes]]:
    """`gpt2flow worker`, which uses the Prefect server of this process."""
    environment = {**os.environ, "PREFECT_API_URL": prefect_url}
    command = [sys.executable, "-m", "flows.cli", "worker"]
    with subprocess.Popen(command, env=environment, start_new_session=True) as process:
        wait_until(lambda: is_ready() or process.poll() is not None)
        assert process.poll() is None
        yield process
        process.terminate()


def is_ready() -> bool:
    with get_client(sync_client=True) as client, suppress(ObjectNotFound):
        return client.read_deployment_by_name(f"{FLOW}/{DEPLOYMENT}").status is DeploymentStatus.READY
    return False


def wait_until(happened: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.5)


def run(config: RunConfig) -> RunFolder:
    return RunFolder(Path(finetune(config).folder))


@pytest.fixture(scope="module")
def bad_windows() -> Iterator[None]:
    """Update 6 diverges on its own windows, when the evaluation of step 4 may be under way."""
    gradient = Trainer._gradient

    def diverging(trainer: Trainer) -> torch.Tensor:
        own = trainer.step == 5 and not trainer.replaced
        return gradient(trainer) * (float("nan") if own else 1.0)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "_gradient", diverging)
        yield


@pytest.fixture(scope="module")
def inside(worker: subprocess.Popen[bytes], bad_windows: None, text: Path) -> RunFolder:
    return run(config_of("inside", text, "inline"))


@pytest.fixture(scope="module")
def outside(worker: subprocess.Popen[bytes], bad_windows: None, text: Path) -> RunFolder:
    return run(config_of("outside", text, "worker"))


def final_weights(folder: RunFolder) -> bytes:
    last = find_checkpoints(folder.checkpoints)[-1]
    return b"".join((last.path / f"{name}.safetensors").read_bytes() for name in ("model", "optimizer"))


def forget_after(folder: RunFolder, step: int) -> None:
    """As if the run had been killed before it took the figures of later steps."""
    (folder.path / "result.json").unlink(missing_ok=True)
    rows = [row for row in folder.evaluations.rows() if row["step"] <= step]
    folder.evaluations.path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_a_worker_finds_the_same_figures_and_samples_and_the_weights_stay_the_same(
    inside: RunFolder, outside: RunFolder
) -> None:
    assert outside.evaluations.rows() == inside.evaluations.rows()
    for step in (0, 4, 8):
        for one, other in zip(
            (*inside.sample_files(step), *inside.report_files(step)),
            (*outside.sample_files(step), *outside.report_files(step)),
            strict=True,
        ):
            assert one.read_bytes() == other.read_bytes()
    assert final_weights(inside) == final_weights(outside)
    assert {path.suffix for path in outside.reports.iterdir()} == {".json", ".parquet"}


def test_both_were_rewound_to_step_4_on_the_way(inside: RunFolder, outside: RunFolder) -> None:
    for folder in (inside, outside):
        assert read_state(find_checkpoints(folder.checkpoints)[-1]).replaced == {5: 1}
        assert [row["step"] for row in folder.metrics.rows()] == list(range(1, 9))


def test_a_run_ends_early_by_the_figures_of_a_worker(worker: subprocess.Popen[bytes], text: Path) -> None:
    stopping = {"steps": 1000, "early_stopping": {"patience": 1, "min_delta": 100.0}}
    result = finetune(config_of("stopping", text, "worker", train=stopping))
    assert (result.steps, result.stopped_early) == (4, True)
    assert [row["step"] for row in RunFolder(Path(result.folder)).evaluations.rows()] == [0, 4]


def test_each_evaluation_is_a_flow_run_of_its_own(outside: RunFolder) -> None:
    with get_client(sync_client=True) as client:
        mine = [run for run in client.read_flow_runs() if run.parameters.get("run") == outside.id]
        wait_until(lambda: all(client.read_flow_run(run.id).state_type == StateType.COMPLETED for run in mine))
    assert sorted(run.parameters["step"] for run in mine) == [4, 8]
    assert all(run.deployment_id and run.parent_task_run_id for run in mine)


def test_a_resumed_run_takes_what_a_worker_has_found_meanwhile(inside: RunFolder, outside: RunFolder, text: Path) -> None:
    forget_after(outside, 4)
    left = {"of": identity(outside, 8), "row": {**inside.evaluations.rows()[-1], "val_loss": 1.5}}
    (outside.reports / "step-00000008.row").write_text(json.dumps(left))
    assert run(config_of("outside", text, "worker")).evaluations.rows()[-1]["val_loss"] == 1.5
    assert not list(outside.reports.glob("*.row"))


def test_what_was_found_with_other_settings_is_not_taken(outside: RunFolder, text: Path) -> None:
    left = {"of": identity(outside, 8), "row": {"step": 8, "val_loss": 1.5}}
    file = outside.reports / "step-00000008.row"
    file.write_text(json.dumps(left))
    assert read_row(outside, 8) == left["row"]
    known = outside.read("run")
    try:
        outside.write("run", {**known, "config": config_of("outside", text, "worker", prompts=["A"]).model_dump()})
        assert read_row(outside, 8) is None
    finally:
        outside.write("run", known)
        file.unlink()


def test_without_a_worker_a_process_here_begins(
    worker: subprocess.Popen[bytes], outside: RunFolder, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(by_worker, "DEPLOYMENT", "served-by-nobody")
    evaluation = hand_to_worker(outside, 8)
    assert isinstance(evaluation, ProcessEvaluation)
    evaluation.stop()
    assert "step 8: no worker is there" in capsys.readouterr().out


@pytest.mark.slow
def test_a_worker_that_is_killed_in_the_middle_is_replaced_by_a_process_here(
    worker: subprocess.Popen[bytes], inside: RunFolder, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The last test, for it kills the worker."""
    monkeypatch.setitem(by_worker.PATIENCE, StateType.RUNNING, (0.1, "its worker has died"))
    found = inside.evaluations.rows()[-1]
    forget_after(inside, 4)
    with (inside.reports / "step-00000008.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # so that it is not through before it is killed
        evaluation = hand_to_worker(inside, 8)
        assert isinstance(evaluation, WorkerEvaluation)
        wait_until(lambda: (state := evaluation._state()) and state.is_running())
        os.killpg(worker.pid, signal.SIGKILL)
        os.kill(FlowRunLock.of(Workspace.current(), evaluation.flow_run).read().process, signal.SIGKILL)  # it would live on
    assert evaluation.join() == found
    assert "step 8: its worker has died" in capsys.readouterr().out
