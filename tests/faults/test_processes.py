"""A run by several processes: one is killed, stopped or hangs, and it goes on with another number of them to the same bits.

Also tests `tasks.processes.ranks`, `tasks.finetuning.follow` and `tasks.processes.started_processes`.
"""

import os
import random
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psutil
import pytest
from runs_by_processes import STEPS, assert_same, config_file, run

from configs.errors import UserError
from gpt2core.checkpoints.checkpoint import find_checkpoints
from gpt2core.training.trainer import Trainer
from tasks.processes.started_processes import loopback
from tasks.runs.find import all_runs
from tasks.runs.run_folder import RunFolder
from tasks.workspace.folders import Workspace


def others_of(process: int) -> list[psutil.Process]:
    """The processes that follow this one."""
    return [child for child in psutil.Process(process).children() if "tasks.finetuning.follow" in child.cmdline()]


def run_of(name: str) -> RunFolder:
    """The run of a config of that name."""
    return next(found for found in all_runs(Workspace.current()) if found.record.name == name)


def last_checkpoint(name: str) -> int:
    """Its step; 0 where there is none."""
    return max((found.step for found in find_checkpoints(run_of(name).checkpoints)), default=0)


def wait_for(reached: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not reached():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_killed_process_is_named_and_the_run_goes_on_with_another_number_to_the_same_bits(
    text: Path, tmp_path: Path, run_by_one: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, update, listening = config_file("ranks-killed", text, tmp_path), Trainer._update, set[str]()

    def killing(trainer: Trainer) -> None:
        if trainer.step == 5:
            (other,) = others_of(os.getpid())
            for process in (psutil.Process(), other):
                listening.update(place.laddr.ip for place in process.net_connections() if place.status == psutil.CONN_LISTEN)
            other.kill()
        update(trainer)

    sentence = r"^Process 1 of 2 was killed by SIGKILL: the run ends, and the same command goes on from the last checkpoint"
    monkeypatch.setattr(Trainer, "_update", killing)
    with pytest.raises(UserError, match=sentence):
        run(file, processes=2, shard="model")
    monkeypatch.undo()
    assert not others_of(os.getpid())
    assert listening <= {"127.0.0.1", "::ffff:127.0.0.1"}, f"more than {loopback()} can reach the processes"
    assert_same(run(file, processes=1), run_by_one)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGSTOP])
def test_whatever_happens_to_a_process_the_run_ends_with_a_sentence_and_goes_on(
    number: signal.Signals, text: Path, tmp_path: Path, run_by_one: RunFolder, slow_process: Any
) -> None:
    """From outside: killed, told to stop as the run itself may be, and halted, which looks as if it hung."""
    file = config_file(f"ranks-{number.name.lower()}", text, tmp_path)
    hangs = ["--train.process_timeout", "20"] if number == signal.SIGSTOP else []
    arguments = ["run", str(file), "--train.processes", "2", *hangs]
    with slow_process(*arguments, until="an update begins", pause=0.3) as process:
        time.sleep(1)
        (other,) = others_of(process.pid)
        other.send_signal(number)
        output = " ".join(process.stdout.read().split())
    said = {
        signal.SIGKILL: "Process 1 of 2 was killed by SIGKILL: the run ends, and the same command goes on",
        signal.SIGSTOP: "Process 1 of 2 has not answered for 20 s: the run ends, and the same command goes on",
        signal.SIGTERM: "is saved; the same command goes on from there",
    }
    assert said[number] in output, output
    assert process.returncode == (143 if number == signal.SIGTERM else 2), output
    assert not other.is_running()
    assert_same(run(file, processes=4), run_by_one)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({"processes": 3}, {"processes": 1}),
        ({"processes": 2, "shard": "optimizer"}, {"processes": 1}),
        ({"processes": 2, "shard": "optimizer"}, {"processes": 4, "shard": "optimizer"}),
        ({"processes": 3, "shard": "model"}, {"processes": 1}),
        ({"processes": 2, "shard": "model"}, {"processes": 4, "shard": "model"}),
    ],
)
def test_when_the_first_process_is_killed_the_others_end_and_the_run_goes_on(
    before: dict[str, Any], after: dict[str, Any], text: Path, tmp_path: Path, run_by_one: RunFolder, slow_process: Any
) -> None:
    name = f"ranks-first-{before.get('shard')}-{before['processes']}-{after['processes']}"
    file = config_file(name, text, tmp_path)
    arguments = [f"--train.{key}={value}" for key, value in before.items()]
    with slow_process("run", str(file), *arguments, until="an update begins", pause=1) as process:
        others = others_of(process.pid)
        wait_for(lambda: last_checkpoint(name) == 4)
        process.kill()
        assert len(others) == before["processes"] - 1
        _, alive = psutil.wait_procs(others, timeout=30)
    assert not alive
    assert last_checkpoint(name) == 4
    assert_same(run(file, **after), run_by_one)


@pytest.mark.slow
def test_any_process_may_be_killed_at_any_moment_and_the_run_goes_on_with_any_number_to_the_same_bits(
    text: Path, tmp_path: Path, run_by_one: RunFolder, slow_process: Any
) -> None:
    """Also while the processes meet, and while the first one evaluates or saves and the others wait."""
    file, chance = config_file("ranks-at-random", text, tmp_path, checkpoint_every=1), random.Random(17)
    seconds = {"beside this one": (0, 8), "each makes": (0, 2), "an update begins": (0.5, 1.5)}
    for kill, moment in enumerate(chance.sample([*seconds, "an update begins"] * 2, 8)):
        number = chance.randrange(2, 5)
        shard = chance.choice(["none", "optimizer", "model"])
        arguments = ["run", str(file), "--train.processes", str(number), "--train.shard", shard]
        with slow_process(*arguments, until=moment, pause=1) as process:
            time.sleep(chance.uniform(*seconds[moment]))
            others = others_of(process.pid)
            chance.choice([process, *others]).kill()
            output = process.communicate()[0]
        assert process.returncode in (2, -signal.SIGKILL), f"kill {kill}, {moment}: {output}"
        assert not psutil.wait_procs(others, timeout=60)[1]
    assert_same(run(file, processes=3, shard="model"), run_by_one)


@pytest.mark.slow
@pytest.mark.parametrize("shard", ["none", "optimizer", "model"])
def test_a_full_disk_pauses_saving_and_the_run_goes_on_with_any_number_to_the_same_bits(
    shard: str,
    text: Path,
    tmp_path: Path,
    run_by_one: RunFolder,
    small_disk: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    name, update = f"ranks-full-{shard}", Trainer._update
    file = config_file(name, text, tmp_path)
    with ExitStack() as stack:

        def on_a_small_disk(trainer: Trainer) -> None:
            if trainer.step == 1:
                checkpoints = run_of(name).checkpoints
                checkpoints.mkdir(exist_ok=True)
                subprocess.run(["mount", "--bind", small_disk, checkpoints], check=True)
                stack.callback(subprocess.run, ["umount", "--lazy", checkpoints], check=True)  # the model is read from there
            update(trainer)

        monkeypatch.setattr("tasks.finetuning.checkpoint_keeper.SPARE_BYTES", 0)
        monkeypatch.setattr(Trainer, "_update", on_a_small_disk)
        with pytest.raises(UserError, match=f"The disk is full at .*, step {STEPS} is not saved: free some space"):
            run(file, processes=2, shard=shard)
        monkeypatch.undo()
        assert not others_of(os.getpid())
        assert "saving pauses at step 4" in " ".join(capsys.readouterr().out.split())
        assert last_checkpoint(name) == 2
        subprocess.run(["mount", "-o", "remount,size=20m", small_disk], check=True)
        assert_same(run(file, processes=4, shard=shard), run_by_one)


@pytest.mark.slow
def test_a_fast_run_goes_on_with_another_number_of_processes_and_says_what_that_means(
    text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file, update = config_file("ranks-fast", text, tmp_path, reduce="fast"), Trainer._update

    def failing(trainer: Trainer) -> None:
        if trainer.step == 5:
            raise UserError("a fault")
        update(trainer)

    monkeypatch.setattr(Trainer, "_update", failing)
    with pytest.raises(UserError):
        run(file, processes=2)
    monkeypatch.undo()
    capsys.readouterr()
    done = run(file, processes=1)
    assert "the run was trained by 2 processes with train.reduce fast" in " ".join(capsys.readouterr().out.split())
    assert done.record.changes[-1].settings["train.processes"] == ["2", "1"]
    assert done.checkpoint_path(STEPS).is_dir()
