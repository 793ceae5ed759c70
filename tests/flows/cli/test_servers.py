"""The dashboard: both servers really run, show what the workspace holds, and are gone when they should be.

Also tests `tasks.servers.dashboard`.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import psutil
import pytest
from databases import with_databases
from mlflow import MlflowClient

from tasks.servers.server_process import Identity, free_port, is_free
from tasks.tracking.mlflow_mirror import create_experiment
from tasks.workspace.folders import Workspace

SERVE = """
import sys
from tasks.servers.dashboard import serve_dashboard
from tasks.servers.pages import Listening
serve_dashboard(Listening(int(sys.argv[1]), int(sys.argv[2])))
"""
FLOW = """
import tasks
from prefect import flow, task

@task
def add(number): return number + 1

@flow(name="beside-the-dashboard")
def add_often():
    total = 0
    for _ in range(30): total = add(total)
    return total

assert add_often() == 30
"""


class Dashboard:
    """A dashboard in a process of its own, and what it has printed so far."""

    def __init__(self, mlflow_port: int, prefect_port: int, **environment: str) -> None:
        self.started = time.monotonic()
        self.mlflow_port = mlflow_port
        self.process = subprocess.Popen(
            [sys.executable, "-c", SERVE, str(mlflow_port), str(prefect_port)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, **environment},
        )
        self.lines: list[tuple[float, str]] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout
        for line in self.process.stdout:
            self.lines.append((time.monotonic() - self.started, line.rstrip()))

    @property
    def output(self) -> str:
        return "\n".join(line for _, line in self.lines)

    def wait_for(self, words: str) -> None:
        while words not in self.output:
            assert self.process.poll() is None, self.output
            assert time.monotonic() - self.started < 120, self.output
            time.sleep(0.05)

    def wait_for_record(self, workspace: Workspace) -> None:
        """Until both servers are started, though they do not answer yet."""
        while not (workspace.root / "dashboard.json").exists():
            assert self.process.poll() is None, self.output
            time.sleep(0.01)

    def end(self) -> int:
        code = self.process.wait(30)
        self._reader.join()
        return code

    def stop_and_find_survivors(self, number: signal.Signals) -> list[psutil.Process]:
        family = psutil.Process(self.process.pid).children(recursive=True)
        self.process.send_signal(number)
        self.end()
        survivors: list[psutil.Process] = psutil.wait_procs(family, timeout=1)[1]
        return survivors


def ask(url: str | urllib.request.Request) -> str:
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(url, timeout=10) as answer:
        text: str = answer.read().decode()
    return text


@pytest.fixture(scope="module")
def workspace() -> Workspace:
    return Workspace.current().create()


@pytest.fixture(scope="module")
def leftover(workspace: Workspace) -> Iterator[psutil.Process]:
    """A server whose dashboard was killed: it runs on, and the record of the dead dashboard names it."""
    orphan = subprocess.Popen(["sleep", "300"], start_new_session=True)
    gone = {"pid": 2**22 + 1, "created": 1.0}
    server = {"pid": orphan.pid, "created": Identity.of(orphan.pid).created}
    record = {"process": gone, "servers": [server], "addresses": {}}
    (workspace.root / "dashboard.json").write_text(json.dumps(record))
    yield psutil.Process(orphan.pid)
    orphan.kill()
    orphan.wait()


@pytest.fixture(scope="module")
def dashboard(workspace: Workspace, leftover: psutil.Process) -> Iterator[Dashboard]:
    """A dashboard that finds its first port taken."""
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        port = taken.getsockname()[1]
        prefect_port = free_port(port + 1000)
        assert prefect_port
        running = Dashboard(port, prefect_port)
        try:
            running.wait_for("Press Ctrl-C")
            yield running
        finally:
            running.process.terminate()
            running.end()


def addresses(workspace: Workspace) -> dict[str, str]:
    recorded = json.loads((workspace.root / "dashboard.json").read_text())["addresses"]
    return {name: page.partition("/#")[0] for name, page in recorded.items()}


def test_it_says_within_a_second_that_it_starts(tmp_path: Path, database_cache: Path) -> None:
    waited = []
    for attempt in range(3):  # the quickest counts, since the other tests compute beside this one
        home = with_databases(Workspace(tmp_path / str(attempt)), database_cache).root
        mlflow_port, prefect_port = free_port(7000), free_port(7100)
        assert mlflow_port and prefect_port
        starting = Dashboard(mlflow_port, prefect_port, GPT2FLOW_HOME=str(home))
        starting.wait_for("Starting the dashboard")
        when, line = starting.lines[0]
        assert starting.stop_and_find_survivors(signal.SIGTERM) == []
        assert line == f"Starting the dashboard of {home} ..."
        waited.append(when)
        if when < 1.0:
            break
    assert min(waited) < 1.0


def test_both_servers_answer_at_the_addresses_it_prints(dashboard: Dashboard, workspace: Workspace) -> None:
    served = addresses(workspace)
    assert served["MLflow"] in dashboard.output
    assert served["Prefect"] in dashboard.output
    assert ask(f"{served['MLflow']}/health") == "OK"
    assert ask(f"{served['Prefect']}/api/health") == "true"
    assert "<title>MLflow</title>" in ask(served["MLflow"])
    assert "Prefect" in ask(served["Prefect"])


def test_the_prefect_page_asks_its_own_server(dashboard: Dashboard, workspace: Workspace) -> None:
    served = addresses(workspace)["Prefect"]
    assert json.loads(ask(f"{served}/ui-settings"))["api_url"] == f"{served}/api"


def test_a_taken_port_is_replaced_by_a_free_one_and_it_says_so(dashboard: Dashboard, workspace: Workspace) -> None:
    taken, chosen = dashboard.mlflow_port, addresses(workspace)["MLflow"].rpartition(":")[2]
    assert chosen != str(taken)
    assert f"Port {taken} is taken, so MLflow gets {chosen}." in dashboard.output


def test_servers_of_a_killed_dashboard_are_stopped_by_the_next(dashboard: Dashboard, leftover: psutil.Process) -> None:
    assert not leftover.is_running() or leftover.status() == psutil.STATUS_ZOMBIE


def test_it_shows_what_runs_have_logged(dashboard: Dashboard, workspace: Workspace) -> None:
    client = MlflowClient()
    run = client.create_run(create_experiment(client, "seen-in-the-dashboard")).info.run_id
    client.log_metric(run, "loss", 2.5, step=7)
    client.log_text(run, "To be, or not", "samples/step-7.txt")
    served = addresses(workspace)["MLflow"]
    shown = json.loads(ask(f"{served}/api/2.0/mlflow/runs/get?run_id={run}"))["run"]["data"]["metrics"]
    assert [(metric["key"], metric["value"], metric["step"]) for metric in shown] == [("loss", 2.5, 7)]
    assert ask(f"{served}/get-artifact?path=samples/step-7.txt&run_uuid={run}") == "To be, or not"


def test_a_second_dashboard_of_the_same_workspace_says_where_the_first_is(dashboard: Dashboard, workspace: Workspace) -> None:
    second = Dashboard(6000, 6001)
    assert second.end() == 1
    assert (
        f"UserError: The dashboard of {workspace.root} runs already: MLflow {addresses(workspace)['MLflow']}" in second.output
    )
    assert f"stop process {dashboard.process.pid}" in second.output


def test_a_run_beside_the_dashboard_keeps_every_task_and_prints_no_error(dashboard: Dashboard, workspace: Workspace) -> None:
    done = subprocess.run([sys.executable, "-c", FLOW], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    request = urllib.request.Request(
        f"{addresses(workspace)['Prefect']}/api/task_runs/count",
        data=json.dumps(
            {"flows": {"name": {"any_": ["beside-the-dashboard"]}}, "task_runs": {"state": {"type": {"any_": ["COMPLETED"]}}}}
        ).encode(),
        headers={"Content-Type": "application/json"},
    )
    assert ask(request) == "30"


def test_a_run_reports_to_the_servers_that_the_environment_names(
    dashboard: Dashboard, workspace: Workspace, tmp_path: Path
) -> None:
    served = addresses(workspace)
    named = {"MLFLOW_TRACKING_URI": served["MLflow"], "PREFECT_API_URL": f"{served['Prefect']}/api"}
    text = tmp_path / "text.txt"
    text.write_text("".join(f"Line {i} of a text for servers.\n\n" for i in range(300)))
    sizes = ["--model.n_ctx", "16", "--model.n_embd", "16", "--model.n_head", "2", "--model.n_layer", "1"]
    options = ["--name", "on-servers", "--data.source", str(text), "--tokenizer.vocab_size", "300", "--train.steps", "20"]
    done = subprocess.run(
        [sys.executable, "-m", "flows.cli", "run", "demo", *sizes, *options, "--registry.model", "on-servers"],
        env={**os.environ, **named, "GPT2FLOW_HOME": str(tmp_path / "elsewhere")},
        capture_output=True,
        text=True,
        check=False,
        timeout=180,
    )
    assert done.returncode == 0, done.stderr
    client = MlflowClient(served["MLflow"])
    version = client.get_model_version_by_alias("on-servers", "candidate")
    assert [metric.step for metric in client.get_metric_history(version.run_id, "loss")] == list(range(1, 21))
    flows = json.dumps({"flow_runs": {"name": {"any_": ["on-servers"]}, "state": {"type": {"any_": ["COMPLETED"]}}}})
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(f"{served['Prefect']}/api/flow_runs/count", flows.encode(), headers)
    assert ask(request) == "1"


def test_ctrl_c_stops_both_and_leaves_no_process(dashboard: Dashboard, workspace: Workspace) -> None:
    ports = [int(address.rpartition(":")[2]) for address in addresses(workspace).values()]
    assert dashboard.stop_and_find_survivors(signal.SIGINT) == []
    assert dashboard.process.returncode == 0
    assert dashboard.lines[-1][1] == "The dashboard is stopped."
    assert all(is_free(port) for port in ports)
    assert not (workspace.root / "dashboard.json").exists()


def test_sigterm_while_the_servers_start_leaves_no_process(dashboard: Dashboard, workspace: Workspace) -> None:
    starting = Dashboard(5800, 5900)
    starting.wait_for_record(workspace)
    assert starting.stop_and_find_survivors(signal.SIGTERM) == []
    assert starting.process.returncode == 0


def test_when_one_server_ends_the_other_is_stopped_and_it_says_why(dashboard: Dashboard, workspace: Workspace) -> None:
    broken = Dashboard(5800, 5900)
    broken.wait_for_record(workspace)
    record = json.loads((workspace.root / "dashboard.json").read_text())
    os.killpg(record["servers"][0]["pid"], signal.SIGKILL)
    assert broken.end() == 1
    assert f"The end of {workspace.root}/mlflow/server.log:" in broken.output
    assert "UserError: MLflow's server ended by itself with exit code -9, so the dashboard was stopped" in broken.output
    assert not any(psutil.pid_exists(server["pid"]) for server in record["servers"])


def test_servers_that_the_environment_names_are_shown_and_not_started(dashboard: Dashboard) -> None:
    elsewhere = Dashboard(5800, 5900, MLFLOW_TRACKING_URI="http://tracking:5000", PREFECT_API_URL="http://flows:4200/api")
    assert elsewhere.end() == 0
    assert "http://tracking:5000" in elsewhere.output
    assert "http://flows:4200 " in elsewhere.output
