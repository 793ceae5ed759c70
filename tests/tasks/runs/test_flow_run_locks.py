"""Locks that say which flow runs are alive, tried with real processes and real kills."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from uuid import uuid4

from tasks.runs.flow_run_locks import KEPT_LOGS, FlowRunLock, Record, all_locks, none_may_begin, note_progress, working_on
from tasks.workspace.folders import Workspace


def test_a_child_that_inherits_the_lock_holds_it_when_its_parent_is_gone(tmp_path: Path) -> None:
    lock = FlowRunLock.of(Workspace(tmp_path), uuid4())
    with lock.taken() as descriptor:
        assert descriptor is not None
        child = subprocess.Popen(["sleep", "60"], pass_fds=[descriptor])
    assert lock.is_held
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert not lock.is_held


def test_a_held_lock_is_not_taken_twice(tmp_path: Path) -> None:
    lock = FlowRunLock.of(Workspace(tmp_path), uuid4())
    with lock.taken() as first, lock.taken() as second:
        assert first is not None
        assert second is None


def test_no_flow_run_begins_while_somebody_must_know_all(tmp_path: Path) -> None:
    workspace, begun = Workspace(tmp_path), threading.Event()

    def begin() -> None:
        with FlowRunLock.of(workspace, uuid4()).taken():
            begun.set()

    with none_may_begin(workspace):
        beginning = threading.Thread(target=begin)
        beginning.start()
        assert not begun.wait(0.3)
        assert all_locks(workspace) == []
    assert begun.wait(60)
    beginning.join()


def test_a_lock_whose_file_was_removed_meanwhile_is_not_the_new_ones(tmp_path: Path) -> None:
    lock = FlowRunLock.of(Workspace(tmp_path), uuid4())
    with lock.taken() as old:
        assert old is not None
        lock.remove()
        with lock.taken() as new:
            assert new is not None
            assert os.fstat(new).st_ino == lock.path.stat().st_ino


def test_only_the_latest_output_of_ended_flow_runs_is_kept(tmp_path: Path) -> None:
    locks = [FlowRunLock.of(Workspace(tmp_path), uuid4()) for _ in range(KEPT_LOGS + 5)]
    for age, lock in enumerate(locks):
        with lock.taken():
            lock.log.write_text("said")
            os.utime(lock.log, (age, age))
    for lock in locks[1:]:
        with lock.taken():
            lock.remove()
    kept = [lock.log.exists() for lock in locks]
    assert kept == [True, *[False] * 4, *[True] * KEPT_LOGS]  # the first one has not come to its end


def test_what_is_recorded_survives_the_process_and_half_of_it_says_nothing(tmp_path: Path) -> None:
    lock = FlowRunLock.of(Workspace(tmp_path), uuid4())
    with lock.taken():
        lock.write(Record(deaths=2, process=7))
    assert lock.read() == Record(deaths=2, process=7)
    lock.path.write_text('{"deaths": 2, "pro')
    assert lock.read() == Record()


def test_progress_is_the_time_stamp_of_the_lock(monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setenv("GPT2FLOW_HOME", str(tmp_path))
    flow_run = uuid4()
    note_progress()  # nothing is under way: nothing to note
    with working_on(flow_run) as by_worker:
        (lock,) = all_locks(Workspace(tmp_path))
        assert not by_worker
        assert lock.flow_run == flow_run
        assert lock.read().process == os.getpid()
        os.utime(lock.path, (0, 0))
        assert lock.seconds_without_progress > 1e6
        note_progress()
        assert lock.seconds_without_progress < 60


def test_a_process_whose_lock_came_from_a_worker_knows_it(tmp_path: Path) -> None:
    flow_run = uuid4()
    lock = FlowRunLock.of(Workspace(tmp_path), flow_run)
    code = f"""
from uuid import UUID
from tasks.runs.flow_run_locks import working_on
with working_on(UUID("{flow_run}")) as by_worker:
    print(by_worker)
"""
    with lock.taken() as descriptor:
        assert descriptor is not None
        environment = {**os.environ, "GPT2FLOW_HOME": str(tmp_path)}
        started = [sys.executable, "-c", code]
        child = subprocess.Popen(started, pass_fds=[descriptor], env=environment, stdout=subprocess.PIPE, text=True)
    assert child.communicate(timeout=60)[0].strip() == "True"
    deadline = time.monotonic() + 10
    while lock.is_held and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not lock.is_held
