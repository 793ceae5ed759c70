"""A sweep on a cluster: every run in a process of its own, whose death is its own, and which the end of the sweep ends too."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import uuid4

import psutil
import pytest
import yaml
from distributed import LocalCluster
from prefect.settings import PREFECT_API_URL, temporary_settings
from tiny import tiny_values

from configs.errors import UserError
from configs.grid import load_sweep
from flows.sweep import sweep_grid
from gpt2core.checkpoints.checkpoint import find_checkpoints
from gpt2core.training.trainer import Trainer
from tasks.runs.find import all_runs
from tasks.runs.run_folder import RunFolder
from tasks.sweeps.members import PROGRAM, train_member
from tasks.workspace.folders import Workspace

PATIENCE = 300.0  # seconds
GRID = "train.learning_rate=1e-4,1e-2"


def config_of(folder: Path, name: str, steps: int, **cluster: object) -> Path:
    (folder / "a.txt").write_text("".join(f"The {i}th line says that {i * i}.\n\n" for i in range(300)))
    values = tiny_values(name, folder / "a.txt", train={"steps": steps}, cluster={"runner": "dask", **cluster})
    (folder / "run.yaml").write_text(yaml.safe_dump(values))
    Workspace.current().create()
    return folder / "run.yaml"


def runs_named(name: str) -> list[RunFolder]:
    return [run for run in all_runs(Workspace.current()) if run.record.name == name]


def wait_until(reached: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not reached():
        assert time.monotonic() < deadline
        time.sleep(0.1)


@contextmanager
def killing_the_first_member() -> Iterator[None]:
    """Inside, the first process that trains a run is killed as soon as it is there."""

    def is_killed() -> bool:
        for process in psutil.Process().children(recursive=True):
            with suppress(psutil.Error):
                if PROGRAM in process.cmdline():
                    process.kill()
                    return True
        return False

    killing = threading.Thread(target=wait_until, args=(is_killed,))
    killing.start()
    yield
    killing.join()


@pytest.fixture(params=["dask", "ray"])
def cluster(request: pytest.FixtureRequest) -> Iterator[dict[str, object]]:
    """What a config says of a cluster: one of Dask that is there, or one of Ray that is started for each sweep."""
    if request.param == "ray":
        pytest.importorskip("prefect_ray", reason="Ray is large, so it is no part of the set-up: pip install 'gpt2flow[ray]'")
        yield {"runner": "ray", "workers": 2}
        return
    with LocalCluster(n_workers=2, threads_per_worker=1, processes=False, dashboard_address=None) as workers:
        yield {"runner": "dask", "address": workers.scheduler_address}


@pytest.mark.slow
def test_a_killed_run_is_one_failure_and_the_same_command_ends_the_sweep(
    cluster: dict[str, object],
    tmp_path: Path,
    prefect_url: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    name = f"clustered-{cluster['runner']}"
    with temporary_settings({PREFECT_API_URL: prefect_url}):
        config = config_of(tmp_path, name, 4, **cluster)
        plan = load_sweep(config, [GRID], {})
        with killing_the_first_member(), pytest.raises(UserError, match="1 of 2 runs failed"):
            sweep_grid(plan)
        failed = capsys.readouterr().out
        result = sweep_grid(plan)
    assert "failed: its process was killed by SIGKILL" in failed
    assert result is not None
    assert [run.outcome() for run in runs_named(name)] == ["finished"] * 2
    monkeypatch.setattr(Trainer, "_update", None)
    here = sweep_grid(load_sweep(config, [GRID], {"cluster": {"runner": "local", "address": None}}))
    assert here == result


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
@pytest.mark.parametrize("runner", ["dask", "ray"])
def test_runs_stop_with_a_checkpoint_when_their_sweep_ends(
    runner: str, number: signal.Signals, tmp_path: Path, prefect_url: str
) -> None:
    if runner == "ray":
        pytest.importorskip("prefect_ray", reason="Ray is large, so it is no part of the set-up: pip install 'gpt2flow[ray]'")
    name = f"abandoned-{runner}-{number.name.lower()}"
    config = config_of(tmp_path, name, 1_000_000, runner=runner, workers=1)
    command = [sys.executable, "-m", "flows.cli", "sweep", str(config), "--grid", GRID]
    with subprocess.Popen(command, env={**os.environ, "PREFECT_API_URL": prefect_url}) as process:
        try:
            wait_until(lambda: any(run.metrics.rows() for run in runs_named(name)))
            members = [child for child in psutil.Process().children(recursive=True) if PROGRAM in child.cmdline()]
            process.send_signal(number)
            assert process.wait(90) == (143 if number == signal.SIGTERM else -number)
        finally:
            process.kill()
    assert members
    wait_until(lambda: not any(member.is_running() for member in members))
    stopped = [run for run in runs_named(name) if run.metrics.rows()]
    logs = [file.read_text(encoding="utf-8") for file in Workspace.current().flow_runs.glob(f"{name}-sweep-*.log")]
    assert [log.strip().splitlines()[-1].endswith("is saved; the same command goes on from there") for log in logs] == [True]
    for run in stopped:
        assert run.state() == "stopped"
        assert find_checkpoints(run.checkpoints)[-1].step == run.metrics.rows()[-1]["step"]


def test_a_worker_with_another_workspace_says_how_to_start_it(tmp_path: Path) -> None:
    member = load_sweep(config_of(tmp_path, "elsewhere", 4), [GRID], {}).members[0]
    outcome = train_member.fn(member, 1, "elsewhere-sweep", uuid4(), tmp_path)
    assert f"has the workspace {Workspace.current().root}: start it with GPT2FLOW_HOME={tmp_path}" in outcome.problem


def test_a_run_whose_sweep_is_gone_is_not_trained(tmp_path: Path) -> None:
    member = load_sweep(config_of(tmp_path, "left-alone", 1_000_000), [GRID], {}).members[0]
    Workspace.current().flow_runs.mkdir(exist_ok=True)
    outcome = train_member.fn(member, 1, "left-alone-sweep", uuid4(), Workspace.current().root)
    assert outcome.result is None
    assert outcome.problem
    assert runs_named("left-alone") == []
