"""One run in the hands of a user: stopped, looked at, pinned, pruned, synchronised, resumed, interrupted twice.

Also tests `tasks.runs.checkpoints`, `tasks.runs.find`, `tasks.runs.run_control`, `tasks.tracking.reconciliation`.
"""

import os
import shutil
import signal
import subprocess
from collections.abc import Callable
from contextlib import AbstractContextManager

import pytest
import yaml
from mlflow import MlflowClient
from tiny import tiny_values

from configs.errors import UserError
from flows.cli.main import app
from gpt2core.checkpoints.checkpoint import find_checkpoints, find_damage
from tasks.runs.find import find_run
from tasks.runs.identity import asked_ids
from tasks.runs.run_control import config_to_resume
from tasks.runs.run_folder import RunFolder
from tasks.workspace.folders import Workspace

PATIENCE = 300.0  # seconds
SlowProcess = Callable[..., AbstractContextManager[subprocess.Popen[str]]]
TRAIN = {"steps": 100_000, "checkpoint_every": 2, "keep_checkpoints": 2, "keep_weights_history": True}


def gpt2flow(*arguments: str) -> None:
    app(list(arguments), exit_on_error=False, result_action="return_value")


@pytest.fixture(scope="module")
def stopped(slow_process: SlowProcess, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A run that `gpt2flow stop` has stopped somewhere behind step 12."""
    folder = tmp_path_factory.mktemp("handled")
    (folder / "a.txt").write_text("".join(f"The {i}th line says that {i * i}.\n\n" for i in range(400)))
    (folder / "run.yaml").write_text(yaml.safe_dump(tiny_values("handled", folder / "a.txt", train=TRAIN)))
    Workspace.current().create()
    with slow_process("run", str(folder / "run.yaml"), until="step 12", pause=0.02) as process:
        gpt2flow("stop", "handled")
        assert process.stdout is not None
        assert "the same command goes on from there" in process.stdout.read()
    assert process.returncode == 143
    return find_run(Workspace.current(), "handled")


def test_a_stopped_run_is_stopped_at_its_newest_checkpoint(stopped: RunFolder) -> None:
    newest = find_checkpoints(stopped.checkpoints)[-1]
    assert stopped.state() == "stopped"
    assert newest.step == stopped.metrics.rows()[-1]["step"]
    assert find_damage(newest, stopped.id) == ""


def test_its_checkpoints_are_listed_verified_pinned_and_pruned(stopped: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    *_, before, newest = find_checkpoints(stopped.checkpoints)
    gpt2flow("checkpoints", "handled", "--verify", "--prune", "--pin", str(before.step))
    printed = capsys.readouterr().out
    assert "Removed:" in printed
    assert "pinned" in printed
    assert "weights only" in printed
    assert printed.count("verified") == len(list(stopped.checkpoints.glob("*-0*[0-9]")))
    (newest.path / "model.safetensors").rename(newest.path / "away")
    with pytest.raises(SystemExit) as code:
        gpt2flow("checkpoints", "handled", "--verify")
    (newest.path / "away").rename(newest.path / "model.safetensors")
    assert code.value.code == 1
    assert "model.safetensors is missing" in " ".join(capsys.readouterr().out.split())


def test_mlflow_is_told_what_it_lacks_once(stopped: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    for _ in range(2):
        gpt2flow("runs", "--sync")
        assert f"{stopped.id}: KILLED" in capsys.readouterr().out
    history = MlflowClient().get_metric_history(stopped.read("run")["mlflow_run_id"], "loss")
    assert [(metric.step, metric.value) for metric in history] == [(row["step"], row["loss"]) for row in stopped.metrics.rows()]


def test_a_run_that_lost_a_file_does_not_keep_the_others_from_mlflow(
    stopped: RunFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    damaged = RunFolder(shutil.copytree(stopped.path, stopped.path.with_name("damaged-1")))
    damaged.write_record(damaged.record.model_copy(update={"id": "damaged-1", "key": "damaged", "mlflow_run_id": None}))
    damaged.evaluations.append([{"step": 99, "val_loss": 3.0}])  # and its samples are lost
    os.utime(damaged.path / "lock")  # the first in line
    gpt2flow("runs", "--sync")
    printed = capsys.readouterr().out
    shutil.rmtree(damaged.path)
    told = [printed.find(text) for text in ("damaged-1: not delivered", f"{stopped.id}: KILLED")]
    assert 0 <= told[0] < told[1], printed


def test_a_run_is_resumed_with_settings_that_leave_it_the_same_run(stopped: RunFolder) -> None:
    config = config_to_resume("handled", {"train": {"processes": 4, "checkpoint_every": 9}, "evaluate": {"every": 30}})
    assert (config.train.processes, config.train.checkpoint_every, config.evaluate.every) == (4, 9, 30)
    assert config_to_resume("handled") == stopped.record.config
    assert asked_ids(config, "a", "b") == asked_ids(stopped.record.config, "a", "b")


@pytest.mark.parametrize(
    ("option", "value", "before"),
    [("--train.learning_rate", "0.5", "0.0003"), ("--train.epochs", "2", "None"), ("--name", "other", "handled")],
)
def test_a_setting_that_makes_it_another_run_is_refused(option: str, value: str, before: str, stopped: RunFolder) -> None:
    with pytest.raises(UserError, match=f"^{option} would make it another run than {stopped.id}, where it is {before}: leave"):
        gpt2flow("resume", "handled", option, value)


def test_a_second_interrupt_ends_a_resumed_run_at_once_with_its_checkpoint(
    slow_process: SlowProcess, stopped: RunFolder
) -> None:
    step = find_checkpoints(stopped.checkpoints)[-1].step
    with slow_process(
        "resume", "handled", "--train.checkpoint_every", "900", until="an update begins", pause=PATIENCE
    ) as process:
        process.send_signal(signal.SIGINT)
        assert process.stdout is not None
        assert any("a second signal (Ctrl-C) ends the process at once" in line for line in process.stdout)
        assert process.poll() is None  # it waits for the update that is under way
        process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE / 2) == -signal.SIGINT
    newest = find_checkpoints(stopped.checkpoints)[-1]
    assert newest.step == step
    assert find_damage(newest, stopped.id) == ""
    assert stopped.state() == "stopped"
