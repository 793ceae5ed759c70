"""A run by several processes: one of them is killed, stopped or hangs, and it goes on with another number to the same bits.

Also tests `ranks` and `follow`.
"""

import os
import signal
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from tiny import tiny_values

from configs.loading import load_config
from flows.finetune import finetune
from tasks.runs.run_folder import RunFolder
from tasks.workspace.folders import Workspace

STEPS = 8
TRAIN = {"steps": STEPS, "accumulate": 4, "checkpoint_every": 2, "process_timeout": 120.0}
QUICK = {"every": STEPS, "max_new_tokens": 4, "lens": False}


def command(name: str, text: Path, folder: Path, **train: Any) -> Path:
    """The config of a run, as a file."""
    file = folder / f"{name}.yaml"
    file.write_text(yaml.safe_dump(tiny_values(name, text, train={**TRAIN, **train}, evaluate=QUICK)))
    return file


def run(file: Path, **train: Any) -> RunFolder:
    return RunFolder(Path(finetune(load_config(file, {"train": train})).folder))


def others_of(process: psutil.Process) -> list[psutil.Process]:
    """Its processes that follow it."""
    return [child for child in process.children() if "tasks.finetuning.follow" in child.cmdline()]


def assert_same(folder: RunFolder, undisturbed: RunFolder) -> None:
    last = [found.checkpoint_path(STEPS) for found in (folder, undisturbed)]
    assert folder.metrics.path.read_bytes() == undisturbed.metrics.path.read_bytes()
    for name in ("model.safetensors", "optimizer.safetensors"):
        assert (last[0] / name).read_bytes() == (last[1] / name).read_bytes(), name


@pytest.fixture(scope="module")
def undisturbed(text: Path, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A run by one process."""
    Workspace.current().create()
    return run(command("ranks-one", text, tmp_path_factory.mktemp("one")))


def disturbed(process: Any, disturb: Mapping[str, Any]) -> str:
    """What a run says in which one of the other processes gets a signal."""
    (other,) = others_of(psutil.Process(process.pid))
    time.sleep(disturb.get("after", 0.0))
    os.kill(other.pid, disturb["signal"])
    output = process.stdout.read()
    process.wait(60)
    assert not other.is_running() or other.status() == psutil.STATUS_ZOMBIE
    return output


def test_a_killed_process_is_named_and_the_run_goes_on_with_other_numbers_to_the_same_bits(
    text: Path, tmp_path: Path, undisturbed: RunFolder, slow_process: Any
) -> None:
    file = command("ranks-killed", text, tmp_path)
    arguments = ["run", str(file), "--train.processes", "2"]
    with slow_process(*arguments, until="an update begins", pause=0.2) as process:
        time.sleep(1)
        output = disturbed(process, {"signal": signal.SIGKILL})
    assert process.returncode == 2
    assert "Process 1 of 2 was killed by SIGKILL: the run ends, and the same command goes on" in " ".join(output.split())
    assert_same(run(file, processes=3), undisturbed)
