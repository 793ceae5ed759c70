"""Real servers beside a run: killed and started again in its middle, and a cancel that comes through them."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
import yaml
from databases import with_databases
from mlflow import MlflowClient
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect_requests import ask
from tiny import tiny_run

from configs.schema import RunConfig
from flows.finetune import finetune
from gpt2core.checkpoints.checkpoint import find_checkpoints, find_damage
from tasks.runs.run_folder import RunFolder
from tasks.servers.server_process import ServerProcess, ServerSpec, free_port, stop_all
from tasks.workspace.folders import Workspace

PROJECT = Path(__file__).parents[2]
STEPS = 60
PATIENCE = 600.0  # seconds; a busy machine takes minutes to start servers
SlowProcess = Callable[..., AbstractContextManager[subprocess.Popen[str]]]


def config_of(name: str, text: Path, steps: int = STEPS) -> RunConfig:
    train = {"steps": steps, "schedule": "constant", "checkpoint_every": 10}
    return tiny_run(name, text, train=train, evaluate={"every": steps // 2})


def prefect_server(workspace: Workspace, port: int) -> ServerSpec:
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port), "--no-ui"]
    environment = {"PREFECT_HOME": str(workspace.prefect_home), "PREFECT_API_URL": f"http://127.0.0.1:{port}/api"}
    return ServerSpec("Prefect", command, port, "/api/health", workspace.root / "server.log", environment)


def mlflow_server(folder: Path, port: int) -> ServerSpec:
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    storage = ["--backend-store-uri", f"sqlite:///{folder / 'db'}", "--artifacts-destination", str(folder / "artifacts")]
    return ServerSpec("MLflow", command + storage, port, "/health", folder / "server.log")


def start(spec: ServerSpec) -> ServerProcess:
    server, deadline = ServerProcess(spec), time.monotonic() + PATIENCE
    while not server.answers():
        assert time.monotonic() < deadline and server.exit_code() is None, server.last_words()
        time.sleep(0.1)
    return server


def kill(server: ServerProcess) -> None:
    """As by kill -9, with everything that it has started."""
    os.killpg(server.identity.pid, signal.SIGKILL)
    server.wait_until_gone()


def file_of(config: RunConfig, folder: Path) -> str:
    file = folder / f"{config.name}.yaml"
    file.write_text(yaml.safe_dump(config.model_dump(mode="json")))
    return str(file)


def folder_of(config: RunConfig) -> RunFolder:
    return RunFolder(next(Workspace.current().runs.glob(f"{config.name}-*")))


def has_come_far(config: RunConfig) -> bool:
    folders = list(Workspace.current().runs.glob(f"{config.name}-*"))
    return bool(folders) and len(RunFolder(folders[0]).metrics.rows()) >= 20


def final_weights(folder: Path) -> bytes:
    last = find_checkpoints(folder / "checkpoints")[-1]
    assert find_damage(last) == ""
    return b"".join((last.path / f"{name}.safetensors").read_bytes() for name in ("model", "optimizer"))


def ask_prefect(url: str, path: str, body: dict[str, object] | None = None) -> Any:
    return ask(f"{url}{path}", body)


def wait_until(happened: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.3)


def cancel(url: str, name: str) -> str:
    """Cancel the newest flow run as Prefect's page does; returns its id."""
    wanted = {"flows": {"name": {"any_": [name]}}, "sort": "START_TIME_DESC"}
    run = ask_prefect(url, "/flow_runs/filter", wanted)[0]
    ask_prefect(url, f"/flow_runs/{run['id']}/set_state", {"state": {"type": "CANCELLING"}})
    return str(run["id"])


def assert_goes_on_exactly(config: RunConfig, text: Path) -> None:
    """The run that was stopped ends with the weights of one that nobody disturbed."""
    newest = find_checkpoints(folder_of(config).checkpoints)[-1]
    assert 0 < newest.step < STEPS
    assert find_damage(newest) == ""
    undisturbed = finetune(config.model_copy(update={"name": f"{config.name}-undisturbed"}))
    assert final_weights(Path(finetune(config).folder)) == final_weights(Path(undisturbed.folder))


@pytest.fixture
def prefect(tmp_path: Path, database_cache: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[ServerProcess, str]]:
    """A Prefect server of the user's own, which the environment names, and its URL."""
    port = free_port(4600)
    assert port is not None
    server = start(prefect_server(with_databases(Workspace(tmp_path / "elsewhere"), database_cache), port))
    monkeypatch.setenv("PREFECT_API_URL", f"http://127.0.0.1:{port}/api")
    monkeypatch.setenv("PREFECT_RUNNER_POLL_FREQUENCY", "1")  # seconds between two looks of Prefect's `serve`
    yield server, f"http://127.0.0.1:{port}/api"
    stop_all([server])


@pytest.mark.slow
def test_a_cancel_in_prefect_stops_a_run_that_was_started_by_hand(
    slow_process: SlowProcess, text: Path, tmp_path: Path, prefect: tuple[ServerProcess, str]
) -> None:
    config = config_of("cancelled", text)
    with slow_process("run", file_of(config, tmp_path), until="is new", pause=0.1) as process:
        wait_until(lambda: has_come_far(config))
        run = cancel(prefect[1], "finetune")
        assert process.stdout is not None
        rest = process.stdout.read()
    assert process.returncode == 143, rest
    assert "the run was cancelled in Prefect" in rest
    assert "the same command goes on from there" in rest
    assert ask_prefect(prefect[1], f"/flow_runs/{run}")["state_type"] == "CANCELLED"
    with temporary_settings({PREFECT_API_URL: prefect[1]}):
        assert_goes_on_exactly(config, text)


@pytest.mark.slow
def test_a_prefect_server_that_is_killed_loses_nothing(
    slow_process: SlowProcess, text: Path, tmp_path: Path, prefect: tuple[ServerProcess, str]
) -> None:
    config = config_of("without-prefect", text)
    with slow_process("run", file_of(config, tmp_path), until="is new", pause=0.1) as process:
        wait_until(lambda: has_come_far(config))
        kill(prefect[0])
        assert process.stdout is not None
        rest = process.stdout.read()
    assert "Traceback" not in rest
    assert process.returncode in (0, 2), rest
    if process.returncode:
        assert "Prefect's server" in rest
    again = start(prefect[0].spec)
    try:
        with temporary_settings({PREFECT_API_URL: prefect[1]}):
            undisturbed = finetune(config.model_copy(update={"name": "with-prefect"}))
            assert final_weights(Path(finetune(config).folder)) == final_weights(Path(undisturbed.folder))
    finally:
        stop_all([again])


@pytest.mark.slow
def test_an_mlflow_server_that_is_killed_and_comes_back_gets_everything_once_and_costs_no_time(
    slow_process: SlowProcess, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = free_port(5600)
    assert port is not None
    spec = mlflow_server(tmp_path, port)
    server = start(spec)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{port}")
    config = config_of("outage", text)
    with slow_process("run", file_of(config, tmp_path), until="is new", pause=1.0) as process:
        folder = folder_of(config)
        wait_until(lambda: len(folder.metrics.rows()) >= 10)
        kill(server)
        wait_until(lambda: len(folder.metrics.rows()) >= 30)
        server = start(spec)
        assert process.stdout is not None
        rest = process.stdout.read()
    try:
        assert process.returncode == 0, rest
        rows = folder.metrics.rows()
        client = MlflowClient(tracking_uri=f"http://127.0.0.1:{port}")
        run = client.get_run(folder.read("run")["mlflow_run_id"])
        history = client.get_metric_history(run.info.run_id, "loss")
        assert run.info.status == "FINISHED"
        assert [(metric.step, metric.value) for metric in history] == [(row["step"], row["loss"]) for row in rows]
    finally:
        stop_all([server])
    speeds = [row["tokens_per_second"] for row in folder.timing.rows()]  # by ten steps; it was away in the second
    assert speeds[1] > 0.8 * speeds[-1]


def test_a_cancel_of_a_deployed_run_ends_it_with_a_checkpoint(
    text: Path, tmp_path: Path, prefect: tuple[ServerProcess, str]
) -> None:
    config, url = config_of("deployed", text, steps=100_000), prefect[1]
    serve = [sys.executable, "-c", "from flows.finetune import finetune; finetune.serve(name='nightly')"]
    with (tmp_path / "serve.log").open("w") as log, subprocess.Popen(serve, stdout=log, stderr=log, cwd=PROJECT) as server:
        try:
            wait_until(lambda: ask_prefect(url, "/deployments/filter", {}))
            (deployment,) = ask_prefect(url, "/deployments/filter", {})
            parameters = {"parameters": {"config": config.model_dump(mode="json")}}
            run = ask_prefect(url, f"/deployments/{deployment['id']}/create_flow_run", parameters)["id"]
            wait_until(lambda: has_come_far(config) or ask_prefect(url, f"/flow_runs/{run}")["state_type"] == "FAILED")
            assert cancel(url, "finetune") == run
            wait_until(lambda: ask_prefect(url, f"/flow_runs/{run}")["state_type"] == "CANCELLED")
        finally:
            server.terminate()
    folder, said = folder_of(config), (tmp_path / "serve.log").read_text()
    newest = find_checkpoints(folder.checkpoints)[-1]
    assert folder.state() == "stopped", said
    assert newest.step == folder.metrics.rows()[-1]["step"], said
    assert find_damage(newest) == "", said
