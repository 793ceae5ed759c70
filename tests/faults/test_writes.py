"""Every write, fsync, rename and delete of checkpoints, logs and token stores may fail, or be the last thing that happens.

Whatever fails: the newest checkpoint loads, none that was good is lost, and going on ends with the bytes of a run that
nothing disturbed.
"""

import io
import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from configs.errors import UserError
from configs.schema import DataSettings, TrainSettings
from gpt2core.checkpoints.checkpoint import (
    Snapshot,
    find_checkpoints,
    newest_valid,
    remove_leftovers,
    set_aside,
    take_snapshot,
    write_checkpoint,
)
from gpt2core.checkpoints.retention import prune
from gpt2core.model.config import GPT2Config
from gpt2core.model.gpt2 import GPT2
from gpt2core.store.encoding import encode_store
from gpt2core.store.token_store import open_store
from gpt2core.text.documents import find_files
from gpt2core.text.tokenizer import Tokenizer, train_tokenizer
from gpt2core.training.batches import Batches
from gpt2core.training.trainer import Trainer
from tasks.runs.metrics_log import MetricsLog

SETTINGS = TrainSettings(
    steps=6, batch_size=2, warmup_steps=0, keep_checkpoints=2, keep_every_hours=0, keep_weights_history=True
)
KILLED = 9
SYSTEM_CALLS = ("link", "fsync", "rename", "replace", "unlink", "rmdir", "mkdir")


class InjectedError(OSError):
    """What the injected error is recognised by."""


@contextmanager
def counting(act: Callable[[int], None], inside: Path) -> Iterator[list[int]]:
    """Call `act(n)` before the n-th change of the file system; the list has the number of changes so far."""
    count = [0]
    saved: list[tuple[Any, str, Any]] = []

    def wrap(owner: Any, name: str, counts: Callable[..., bool]) -> None:
        original = getattr(owner, name)
        saved.append((owner, name, original))

        def changed(*arguments: Any, **options: Any) -> Any:
            if counts(*arguments):
                count[0] += 1
                act(count[0])
            return original(*arguments, **options)

        setattr(owner, name, changed)

    for name in SYSTEM_CALLS:
        wrap(os, name, lambda *_: True)
    wrap(io, "open", lambda file, mode="r", *_: str(file).startswith(str(inside)) and set(mode) & set("wa+x") != set())
    try:
        yield count
    finally:
        for owner, name, original in saved:
            setattr(owner, name, original)


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("text")
    (folder / "a.txt").write_text("".join(f"The {i}th line says {i * i}.\n\n" for i in range(300)))
    return folder


@pytest.fixture(scope="module")
def tokenizer(text: Path) -> Tokenizer:
    return train_tokenizer([(text / "a.txt").read_text()], 280)


@pytest.fixture(scope="module")
def snapshots(text: Path, tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> list[Snapshot]:
    """The state after each of six updates."""
    settings = DataSettings(source=[str(text)])
    store = open_store(encode_store(find_files(settings), settings, tokenizer, tmp_path_factory.mktemp("stores")))
    model = GPT2(GPT2Config(280, 8, 8, 2, 1)).initialise(0)
    trainer = Trainer(model, Batches(store.stream("train"), 8, 2, 0), SETTINGS)
    taken = []
    for step in range(1, 7):
        trainer.run_until(step)
        live = take_snapshot(trainer, {"run": "r"})
        weights, moments = ({name: t.clone() for name, t in part.items()} for part in (live.weights, live.moments))
        taken.append(Snapshot(live.training, live.config, weights, moments, live.state))
    return taken


def work_on(folder: Path, snapshots: list[Snapshot], tokenizer: Tokenizer, text: Path) -> None:
    """What a run does with the disk: encode, cut back to the newest good checkpoint, then log, save and prune by step."""
    settings = DataSettings(source=[str(text)])
    open_store(encode_store(find_files(settings), settings, tokenizer, folder / "stores"))
    remove_leftovers(folder)
    checkpoint, damaged = newest_valid(folder, "r")
    for bad, _ in damaged:
        set_aside(bad)
    log, done = MetricsLog(folder / "metrics.jsonl"), checkpoint.step if checkpoint else 0
    log.cut_back(done)
    for snapshot in snapshots[done:]:
        log.append([{"step": snapshot.step, "loss": 1 / snapshot.step}])
        log.sync()
        write_checkpoint(folder, snapshot, tokenizer)
        prune(folder, SETTINGS, {1: 0.5}, 0.0)
    prune(folder, SETTINGS, {1: 0.5}, 0.0)


def content(folder: Path) -> dict[str, object]:
    return {str(path.relative_to(folder)): content_of(path) for path in sorted(folder.rglob("*")) if path.is_file()}


def content_of(path: Path) -> object:
    if path.suffix != ".sqlite":
        return path.read_bytes()
    with closing(sqlite3.connect(path)) as database:  # its bytes tell how often it was written
        return sorted(database.iterdump())


def durable_step(folder: Path) -> int:
    checkpoint, _ = newest_valid(folder, "r")
    return checkpoint.step if checkpoint else 0


def newest_step(folder: Path) -> int:
    return max((checkpoint.step for checkpoint in find_checkpoints(folder)), default=0)


def disturb_by_error(work: Callable[[], None], point: int, folder: Path) -> None:
    def fail(number: int) -> None:
        if number == point:
            raise InjectedError(5, "Input/output error")

    with counting(fail, folder):
        try:
            work()
        except (InjectedError, UserError):
            return
    # Some failures need not be passed on: those of removing what would be removed again.


def disturb_by_kill(work: Callable[[], None], point: int, folder: Path) -> None:
    def die(number: int) -> None:
        if number == point:
            os._exit(KILLED)

    child = os.fork()
    if child == 0:
        try:
            with counting(die, folder):
                work()
        finally:
            os._exit(1)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == KILLED


def check_every(step: int, snapshots: list[Snapshot], tokenizer: Tokenizer, text: Path, tmp_path: Path) -> int:
    """Disturb at every `step`-th point, by an error and by a kill; returns how many disturbances there were."""

    def working(folder: Path) -> Callable[[], None]:
        folder.mkdir()
        return lambda: work_on(folder, snapshots, tokenizer, text)

    undisturbed = tmp_path / "undisturbed"
    progress: list[int] = []
    work = working(undisturbed)
    with counting(lambda _: progress.append(newest_step(undisturbed)), undisturbed) as count:
        work()
    expected = content(undisturbed)
    points = range(1, count[0] + 1, step)
    for disturb in (disturb_by_error, disturb_by_kill):
        for point in points:
            folder = tmp_path / f"{disturb.__name__}-{point}"
            work = working(folder)
            disturb(work, point, folder)
            assert durable_step(folder) >= progress[point - 1], f"a good checkpoint was lost: {disturb.__name__} {point}"
            work()
            assert content(folder) == expected, f"{disturb.__name__} {point}"
    return 2 * len(points)


def test_some_faults_change_nothing(snapshots: list[Snapshot], tokenizer: Tokenizer, text: Path, tmp_path: Path) -> None:
    assert check_every(29, snapshots, tokenizer, text, tmp_path) >= 10


@pytest.mark.slow
def test_no_fault_at_any_point_changes_anything(
    snapshots: list[Snapshot], tokenizer: Tokenizer, text: Path, tmp_path: Path
) -> None:
    assert check_every(1, snapshots, tokenizer, text, tmp_path) >= 100
