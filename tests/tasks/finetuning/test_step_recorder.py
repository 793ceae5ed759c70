"""What the trainer reports stands in the run's folder, spikes included, the same however often the run was interrupted."""

from pathlib import Path

import pytest

from gpt2core.training.callback import StepMetrics, StepsDone
from tasks.finetuning.step_recorder import StepRecorder
from tasks.runs.run_folder import RunFolder

LOSSES = [3.0 + 0.01 * (step % 7) for step in range(60)]
LOSSES[40] = LOSSES[41] = 5.0


def report(recorder: StepRecorder, first: int, last: int) -> None:
    """The updates `first` to `last` (1 is the first), ten at a time."""
    for start in range(first, last + 1, 10):
        steps = range(start, min(start + 10, last + 1))
        recorder.on_steps_done(StepsDone([StepMetrics(step, LOSSES[step - 1], 1e-3, 1.0) for step in steps], 100.0))


def test_a_spike_is_said_once_and_stands_in_its_rows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = RunFolder(tmp_path)
    report(StepRecorder(folder), 1, 60)
    assert {row["step"]: row["loss_spike"] for row in folder.metrics.rows() if "loss_spike" in row} == {
        41: pytest.approx(1.97),
        42: pytest.approx(1.97),
    }
    printed = capsys.readouterr().out
    assert printed.count("spike") == 1
    assert "step 41 has a spike: 5.000, 1.970 above what the steps before had" in printed


@pytest.mark.parametrize("killed_at", [30, 41, 45])
def test_a_resumed_run_writes_the_file_of_one_that_was_not_interrupted(tmp_path: Path, killed_at: int) -> None:
    folders = [RunFolder(tmp_path / name) for name in ("undisturbed", "killed")]
    for folder in folders:
        folder.path.mkdir()
    undisturbed, killed = folders
    report(StepRecorder(undisturbed), 1, 60)
    report(StepRecorder(killed), 1, 50)
    killed.metrics.cut_back(killed_at)
    report(StepRecorder(killed), killed_at + 1, 60)
    assert killed.metrics.path.read_bytes() == undisturbed.metrics.path.read_bytes()


def test_an_update_that_was_left_out_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recorder = StepRecorder(RunFolder(tmp_path))
    recorder.on_steps_done(StepsDone([StepMetrics(1, float("nan"), 1e-3, 1.0)], 100.0))
    assert "not finite at step 1: this update is left out" in capsys.readouterr().out
