"""A lock keeps processes apart, and goes with the process that holds it."""

import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from threading import Event

import pytest

from gpt2core.machine.lock import is_held, locked

HOLDING = """
import sys, time
from pathlib import Path
from gpt2core.machine.lock import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


@contextmanager
def held_elsewhere(path: Path) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen([sys.executable, "-c", HOLDING, str(path)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


@pytest.fixture(params=["file", "folder"])
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return tmp_path / "lock" if request.param == "file" else tmp_path


def test_a_kill_frees_the_lock(path: Path) -> None:
    with held_elsewhere(path) as process:
        assert is_held(path)
        with pytest.raises(BlockingIOError), locked(path, wait=False):
            pass
        process.send_signal(signal.SIGKILL)
        with locked(path):
            assert is_held(path)
    assert not is_held(path)


def test_a_child_that_inherits_the_lock_holds_it_as_well(path: Path) -> None:
    with locked(path) as descriptor:
        child = subprocess.Popen(["sleep", "60"], pass_fds=[descriptor])
    assert is_held(path)
    child.kill()
    child.wait()
    assert not is_held(path)


def test_who_only_looks_takes_the_lock_from_nobody(tmp_path: Path) -> None:
    path, done = tmp_path / "lock", Event()

    def look() -> None:
        while not done.is_set():
            is_held(path)

    with ThreadPoolExecutor() as pool:
        looking = pool.submit(look)
        for _ in range(100):
            with locked(path, wait=False):
                pass
        done.set()
        looking.result()


def test_what_is_not_there_is_held_by_nobody_and_made_when_it_is_locked(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    assert not is_held(path)
    with locked(path):
        assert path.is_file()
