"""A run by several processes: one is killed, stopped or hangs, and it goes on with another number of them to the same bits.

Also tests `tasks.finetuning.ranks` and `tasks.finetuning.follow`.
"""

import os
import signal
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from tiny import tiny_values

from configs.errors import UserError
from configs.loading import load_config
from flows.finetune import finetune
from gpt2core.training.trainer import Trainer
from tasks.finetuning.ranks import loopback
from tasks.runs.run_folder import RunFolder

STEPS = 8
TRAIN = {"steps": STEPS, "accumulate": 4, "checkpoint_every": 2, "process_timeout": 120.0}
QUICK = {"every": STEPS, "max_new_tokens": 4, "lens": False}


def config_file(name: str, text: Path, folder: Path, **train: Any) -> Path:
    file = folder / f"{name}.yaml"
    file.write_text(yaml.safe_dump(tiny_values(name, text, train={**TRAIN, **train}, evaluate=QUICK)))
    return file


def run(file: Path, **train: Any) -> RunFolder:
    return RunFolder(Path(finetune(load_config(file, {"train": train})).folder))


def others_of(process: int) -> list[psutil.Process]:
    """The processes that follow this one."""
    return [child for child in psutil.Process(process).children() if "tasks.finetuning.follow" in child.cmdline()]


def assert_same(folder: RunFolder, undisturbed: RunFolder) -> None:
    assert folder.metrics.path.read_bytes() == undisturbed.metrics.path.read_bytes()
    last = [found.checkpoint_path(STEPS) for found in (folder, undisturbed)]
    for name in ("model.safetensors", "optimizer.safetensors"):
        assert (last[0] / name).read_bytes() == (last[1] / name).read_bytes(), name


@pytest.fixture(scope="module")
def undisturbed(text: Path, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A run by one process."""
    return run(config_file("ranks-one", text, tmp_path_factory.mktemp("one")))


def test_a_killed_process_is_named_and_the_run_goes_on_with_another_number_to_the_same_bits(
    text: Path, tmp_path: Path, undisturbed: RunFolder, monkeypatch: pytest.MonkeyPatch
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
        run(file, processes=2)
    monkeypatch.undo()
    assert not others_of(os.getpid())
    assert listening <= {"127.0.0.1", "::ffff:127.0.0.1"}, f"more than {loopback()} can reach the processes"
    assert_same(run(file, processes=1), undisturbed)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGSTOP])
def test_whatever_happens_to_a_process_the_run_ends_with_a_sentence_and_goes_on(
    number: signal.Signals, text: Path, tmp_path: Path, undisturbed: RunFolder, slow_process: Any
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
    assert_same(run(file, processes=4), undisturbed)


@pytest.mark.slow
def test_when_the_first_process_is_killed_the_others_end_and_the_run_goes_on(
    text: Path, tmp_path: Path, undisturbed: RunFolder, slow_process: Any
) -> None:
    file = config_file("ranks-first", text, tmp_path)
    with slow_process("run", str(file), "--train.processes", "3", until="an update begins", pause=0.3) as process:
        time.sleep(1)
        others = others_of(process.pid)
        process.kill()
        assert len(others) == 2
        _, alive = psutil.wait_procs(others, timeout=30)
    assert not alive
    assert_same(run(file, processes=1), undisturbed)
