"""How runs stand, from their folders: one that trains in another process, one that has failed, one of which little is known."""

import json
import os
import pty
import subprocess
import sys
import time
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from flows.pages.status import render, sparkline
from tasks.monitoring.status import in_equal_parts, next_nights, run_status, seconds_left, status_of
from tasks.runs.run_folder import RunFolder
from tasks.workspace.folders import Workspace


def shown(workspace: Workspace, run: RunFolder | None = None) -> str:
    console = Console(width=100, record=True, file=StringIO())
    console.print(render(status_of(workspace, run)))
    return console.export_text()


def begun_earlier(run: RunFolder) -> None:
    """The attempt that holds the lock began a minute ago."""
    os.utime(run.path / "lock", (time.time() - 60,) * 2)


@pytest.fixture
def workspace(folder: RunFolder, tmp_path: Path) -> Workspace:
    """With the run of the conftest in it."""
    workspace = Workspace(tmp_path / "workspace")
    workspace.runs.mkdir(parents=True)
    folder.path.rename(workspace.runs / folder.id)
    return workspace


@pytest.fixture
def run(workspace: Workspace, folder: RunFolder) -> RunFolder:
    return RunFolder(workspace.runs / folder.id)


def test_everything_about_a_run_that_trains(run: RunFolder, workspace: Workspace) -> None:
    (run.checkpoint_path(10)).mkdir(parents=True)
    with run.locked():
        now = time.time() * 1000
        begun_earlier(run)
        run.timing.append({"step": step, "tokens_per_second": 100.0, "time": now - 10_000 + step * 1000} for step in (0, 10))
        status = run_status(run)
    assert (status.state, status.step, status.steps, status.loss) == ("running", 20, 30, 4.0)
    assert (status.best_step, status.validation[-1]) == (10, (20, 3.5))
    assert status.checkpoints == [10]
    assert status.process == os.getpid()
    assert status.memory and status.memory > 10_000_000
    assert status.samples[0].completion == "</script>20 times"
    assert status.seconds_left == pytest.approx(10.0, abs=2.0)
    assert run_status(run).state == "stopped"
    assert run_status(run).seconds_left is None
    text = shown(workspace)
    for part in ("tale-1234 stopped", "20 of 30 (67%)", "4.000", "3.500 at step 20; best at step 10", "learning rate 1.0e-03"):
        assert part in text


def test_time_left_counts_this_attempt_alone(run: RunFolder) -> None:
    with run.locked():
        now = time.time() * 1000
        begun_earlier(run)
        assert seconds_left(run, 10) is None
        run.timing.append([{"step": 5, "tokens_per_second": 1.0, "time": now - 9e9}])
        run.timing.append({"step": 20 + step, "tokens_per_second": 1.0, "time": now + (step - 5) * 2000} for step in (0, 5))
        assert seconds_left(run, 10) == pytest.approx(20.0, abs=2.0)


def test_a_failed_run_says_why_without_markup_mistakes(run: RunFolder, workspace: Workspace) -> None:
    run.write("failure", {"error": "the text [/b] is bad", "step": 20})
    assert run_status(run).error == "the text [/b] is bad"
    assert "the text [/b] is bad" in shown(workspace)


def test_a_new_workspace_and_a_run_that_has_written_nothing_yet(run: RunFolder, workspace: Workspace, tmp_path: Path) -> None:
    for name in ("metrics", "timing", "evaluations"):
        (run.path / f"{name}.jsonl").unlink()
    assert "0 of 30 (0%)" in shown(workspace)
    assert "No runs yet" in shown(Workspace(tmp_path / "new"))


def test_json_has_null_for_what_is_no_number(run: RunFolder, workspace: Workspace) -> None:
    run.metrics.append([{"step": 21, "loss": float("nan"), "learning_rate": 1e-3, "gradient_norm": 1.0}])
    found = json.loads(json.dumps(status_of(workspace).as_json(), allow_nan=False))
    assert found["runs"][0]["loss"] is None
    assert found["runs"][0]["validation"] == [[0, 5.5], [10, 3.25], [20, 3.5]]
    assert found["nights"] is None


def test_a_curve_becomes_as_many_blocks_as_fit() -> None:
    assert sparkline(in_equal_parts([float(value) for value in range(800)], 8)) == "▁▂▃▄▅▆▇█"
    assert sparkline([2.0, 2.0]) == "▁▁"
    assert sparkline([]) == ""
    assert in_equal_parts([1.0, 2.0, 3.0], 60) == [1.0, 2.0, 3.0]


def test_no_server_is_asked_where_none_runs(workspace: Workspace) -> None:
    assert next_nights(workspace) is None


def test_live_shows_a_terminal_the_run_until_it_has_ended(run: RunFolder, workspace: Workspace) -> None:
    command = [sys.executable, "-m", "flows.cli", "status", run.id, "--live"]
    environment = {**os.environ, "GPT2FLOW_HOME": str(workspace.root), "TERM": "xterm", "COLUMNS": "100", "LINES": "40"}
    parent, child = pty.openpty()
    with run.locked():
        process = subprocess.Popen(command, stdout=child, stderr=subprocess.STDOUT, env=environment, close_fds=True)
        os.close(child)
        seen = b""
        while b"running" not in seen:
            seen += os.read(parent, 65536)
        assert process.poll() is None
    try:
        while True:
            seen += os.read(parent, 65536)
    except OSError:  # the terminal's other end is closed
        pass
    assert process.wait(30) == 0
    assert b"stopped" in seen
    refused = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert refused.returncode == 2
    assert "--live needs a terminal" in refused.stderr
