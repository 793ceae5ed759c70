"""One training on a device, tried with two processes."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from configs.schema import RunConfig
from gpt2core.machine.lock import is_held
from tasks.scheduling.device_lock import DeviceBusyError, device_for

TRAIN = """
import sys, time
from configs.schema import RunConfig
from gpt2core.machine.lock import is_held
from tasks.scheduling.device_lock import device_for
with device_for(RunConfig.model_validate({"name": "other", "model": {"n_ctx": 8, "n_embd": 8, "n_head": 1, "n_layer": 1},
                                          "train": {"device": "cpu"}})):
    print("has it", flush=True)
    time.sleep(float(sys.argv[1]))
"""


def config_of(when_busy: str) -> RunConfig:
    sizes = {"n_ctx": 8, "n_embd": 8, "n_head": 1, "n_layer": 1}
    return RunConfig.model_validate({"model": sizes, "train": {"device": "cpu"}, "schedule": {"when_busy": when_busy}})


@contextmanager
def somebody_trains(seconds: float) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen([sys.executable, "-c", TRAIN, str(seconds)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline().strip() == "has it"
        yield process
        process.kill()


@pytest.fixture(autouse=True)
def locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GPT2FLOW_LOCKS", str(tmp_path))


def test_the_second_is_told_who_trains_where_the_config_says_skip() -> None:
    with somebody_trains(60) as other, pytest.raises(DeviceBusyError) as refused, device_for(config_of("skip")):
        pass
    assert f"cpu is taken by 'other' (process {other.pid}" in str(refused.value)


def test_the_second_waits_for_the_first_where_the_config_says_queue(capsys: pytest.CaptureFixture[str]) -> None:
    with somebody_trains(1) as other, device_for(config_of("queue")):
        assert other.wait(10) == 0
    assert "waiting until cpu is free: 'other'" in capsys.readouterr().out


def test_a_kill_frees_the_device() -> None:
    with somebody_trains(60) as other:
        os.kill(other.pid, signal.SIGKILL)
        other.wait()
        with device_for(config_of("skip")):
            pass


def test_processes_that_see_one_gpu_each_lock_that_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Both call it cuda:0. A stand-in for GPUs: PyTorch's own count of them."""
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    monkeypatch.setattr("tasks.scheduling.device_lock.choose_device", lambda _: torch.device("cuda:0"))
    taken = []
    for visible in ("2", "5"):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
        with device_for(config_of("skip")):
            taken += [path.name for path in tmp_path.iterdir() if is_held(path)]
    assert taken == ["cuda-2.lock", "cuda-5.lock"]
