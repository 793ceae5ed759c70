"""What is trained on while something goes wrong, and `gpt2flow up` in a workspace of its own, to be killed in parts."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from databases import with_databases
from mlflow import MlflowClient
from prefect_requests import ask
from runs_by_processes import config_file, run
from tiny import tiny_values

from gpt2core.checkpoints.checkpoint import find_checkpoints, find_damage
from tasks.runs.find import all_runs
from tasks.runs.flow_run_locks import FlowRunLock, all_locks
from tasks.runs.run_folder import RunFolder
from tasks.servers.server_process import free_port
from tasks.workspace.folders import Workspace

PATIENCE = 300.0  # seconds; a busy machine takes minutes to start servers


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of 400 lines, in a workspace that is there."""
    file: Path = tmp_path_factory.mktemp("text") / "a.txt"
    file.write_text("".join(f"The {i}th line says that {i} times {i} is {i * i}.\n\n" for i in range(400)))
    Workspace.current().create()
    return file


@pytest.fixture(scope="module")
def run_by_one(text: Path, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A run by one process."""
    return run(config_file("ranks-one", text, tmp_path_factory.mktemp("one")))


class Up:
    """`gpt2flow up` of a workspace of its own, and what there is to ask and to kill."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.workspace = Workspace(folder / "workspace")
        self.ports = [free_port(first) or first for first in (5500 + os.getpid() % 400, 4500 + os.getpid() % 400)]
        self.environment = {**os.environ, "GPT2FLOW_HOME": str(self.workspace.root), "GPT2FLOW_LOCKS": str(folder / "locks")}
        for name in ("PREFECT_API_URL", "PREFECT_HOME", "MLFLOW_TRACKING_URI", "GPT2FLOW_OWNER"):
            self.environment.pop(name, None)
        self.process: subprocess.Popen[bytes] | None = None
        self.headers = {"Content-Type": "application/json"}

    def start(self) -> None:
        ports = ["--mlflow_port", str(self.ports[0]), "--prefect_port", str(self.ports[1])]
        command, log = [sys.executable, "-m", "flows.cli", "up", *ports], self.folder / "up.log"
        with log.open("ab") as output:
            self.process = subprocess.Popen(command, env=self.environment, stdout=output, stderr=output)
        _wait_until(lambda: self.process.poll() is not None or self._is_up())
        assert self.process.poll() is None, log.read_text()

    def _is_up(self) -> bool:
        """Whether this process, and not a killed one before it, has brought the servers and the worker up."""
        pids = self.pids()
        return pids.get("up") == self.process.pid and "worker" in pids and self.is_served()

    def stop(self) -> None:
        """As by Ctrl-C."""
        if self.process is not None:
            self.process.send_signal(signal.SIGINT)
            self.process.wait(PATIENCE)
            self.process = None

    def gpt2flow(self, *arguments: str, code: int = 0) -> str:
        """One command in the workspace; returns its output."""
        command = [sys.executable, "-m", "flows.cli", *arguments]
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True, check=False, timeout=PATIENCE)
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout + done.stderr

    def trigger(self, deployment: str) -> None:
        """As `gpt2flow trigger`, which takes seconds to start."""
        (found,) = self.ask("/deployments/filter", {"deployments": {"name": {"any_": [deployment]}}})
        self.ask(f"/deployments/{found['id']}/create_flow_run", {})

    @property
    def mlflow(self) -> MlflowClient:
        """What MLflow's server says."""
        return MlflowClient(f"http://127.0.0.1:{self.ports[0]}")

    def pids(self) -> dict[str, int]:
        """Process ids of living servers and worker by name, and that of the supervisor."""
        try:
            found = json.loads((self.workspace.root / "dashboard.json").read_text())
        except FileNotFoundError:
            return {}
        named = dict(zip(found["addresses"], (server["pid"] for server in found["servers"]), strict=True))
        return {name: pid for name, pid in {**named, "up": found["process"]["pid"]}.items() if psutil.pid_exists(pid)}

    def kill(self, *names: str) -> None:
        """As by kill -9: servers with everything that they have started, `training` is the process of every flow run.

        `hang` stops that process instead, and lets it live.
        """
        pids = self.pids()
        for name in names:
            if name in ("training", "hang"):
                for lock in self.alive():
                    os.kill(lock.read().process, signal.SIGKILL if name == "training" else signal.SIGSTOP)
            elif name in ("MLflow", "Prefect"):
                os.killpg(pids[name], signal.SIGKILL)
            else:
                os.kill(pids[name], signal.SIGKILL)
        if "up" in names and self.process is not None:
            self.process.wait()
            self.process = None

    def alive(self) -> list[FlowRunLock]:
        """Locks of flow runs whose process lives and is known."""
        return [lock for lock in all_locks(self.workspace) if lock.is_held and lock.read().process]

    def ask(self, path: str, body: dict[str, object] | None = None) -> Any:
        """Prefect's API."""
        return ask(f"http://127.0.0.1:{self.ports[1]}/api{path}", body, self.headers)

    def is_served(self) -> bool:
        """Whether Prefect's server answers and the worker looks for work."""
        try:
            return any(found["status"] == "READY" for found in self.ask("/deployments/filter", {}))
        except OSError:
            return False

    def flow_runs(self, deployment: str) -> list[dict[str, Any]]:
        """The deployment's flow runs whose time has come, the first one first."""
        wanted = {"deployments": {"name": {"any_": [deployment]}}, "sort": "EXPECTED_START_TIME_ASC"}
        found = self.ask("/flow_runs/filter", wanted)
        return [run for run in found if run["state_name"] != "Scheduled" or run["run_count"]]

    def ended(self, deployment: str) -> list[dict[str, Any]]:
        """Those of them that took place and have ended."""
        kinds = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")
        return [run for run in self.flow_runs(deployment) if run["state_type"] in kinds and run["run_count"]]

    def run_of(self, name: str) -> RunFolder | None:
        """The newest run folder of a config's name."""
        return next((run for run in all_runs(self.workspace) if run.id.startswith(f"{name}-")), None)

    def step(self, name: str) -> int:
        """How many updates of the run are on its record."""
        run = self.run_of(name)
        try:
            return run.metrics.path.read_bytes().count(b"\n") if run else 0
        except FileNotFoundError:
            return 0

    def config(self, name: str, text: Path, **sections: dict[str, object]) -> str:
        """Path of a config of a tiny model; `sections` lie above what it says."""
        settings: dict[str, dict[str, object]] = {
            "train": {"steps": 20, "schedule": "constant", "checkpoint_every": 10, "keep_checkpoints": 1},
            "evaluate": {"every": 10**6, "copied_tokens": 0},
            "schedule": {"back_off": 1},
        }
        merged = {key: {**settings.get(key, {}), **sections.get(key, {})} for key in [*settings, *sections]}
        file = self.folder / f"{name}.yaml"
        file.write_text(yaml.safe_dump(tiny_values(name, text, **merged)))
        return str(file)


@pytest.fixture(scope="session")
def up_class() -> type[Up]:
    """For tests whose servers are not as usual."""
    return Up


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory, database_cache: Path) -> Iterator[Up]:
    """Servers and worker of a workspace of its own."""
    started = Up(tmp_path_factory.mktemp("up"))
    with_databases(started.workspace, database_cache)
    started.start()
    yield started
    for lock in started.alive():
        os.kill(lock.read().process, signal.SIGKILL)
    started.stop()


def _wait_until(happened: Callable[[], object], patience: float = PATIENCE) -> None:
    """Look often, also while a server that is asked is away; fail when patience is at its end.

    Looking takes a tenth of the time at most, since a server that answers all the while keeps from work what is waited for.
    """
    deadline = time.monotonic() + patience
    while True:
        began = time.monotonic()
        with suppress(OSError):
            if happened():
                return
        now = time.monotonic()
        assert now < deadline
        time.sleep(max(0.05, 9 * (now - began)))


def _final_weights(run: RunFolder) -> bytes:
    """Model and optimizer at the run's last step."""
    last = find_checkpoints(run.checkpoints)[-1]
    assert find_damage(last) == ""
    return b"".join((last.path / f"{name}.safetensors").read_bytes() for name in ("model", "optimizer"))


@pytest.fixture(scope="session")
def wait_until() -> Callable[..., None]:
    """Wait for something to happen, and fail when it does not."""
    return _wait_until


@pytest.fixture(scope="session")
def final_weights() -> Callable[[RunFolder], bytes]:
    """The weights that a run has ended with."""
    return _final_weights
