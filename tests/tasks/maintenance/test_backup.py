"""A workspace copied while it is in use and put back: whole or not at all, wherever a kill or a flipped bit strikes.

Also tests `tasks.maintenance.archive`, `tasks.maintenance.in_use`, `tasks.workspace.contents` and
`tasks.workspace.replacement`.
"""

import io
import json
import os
import random
import shutil
import signal
import sqlite3
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from configs.errors import UserError
from gpt2core.machine.durable import remove_folder
from tasks.maintenance.backup import back_up, restore
from tasks.runs.run_folder import RunFolder
from tasks.workspace.contents import DATABASES
from tasks.workspace.folders import Workspace
from tasks.workspace.replacement import finish_replacement

PASSING = {
    "prefect/server.log": "words",
    "databases.lock": "",
    "dashboard.json.tmp": "half",
    "stores/abc.tmp/tokens": "half",
    "runs/a-1/checkpoints/step-00000012.tmp/model.safetensors": "half",
    "copy-indexes/abc/index": "made again",
    "stores/.index.sqlite": "made again",
}
LASTING = {
    "nights/a/1.json": "night",
    "runs/a-1/run.json": "run",
    "runs/a-1/metrics.jsonl": "one\ntwo\n",
    "runs/a-1/samples/step-00000008.txt": "Once",
    "runs/a-1/checkpoints/step-00000008/model.safetensors": "weights",
    "runs/a-1/checkpoints/step-00000008/manifest.json": "hashes",
    "runs/a-1/checkpoints/step-00000008/optimizer.safetensors": "moments",
    "stores/abc/tokens-train-00000.parquet": "tokens",
    "mlflow/artifacts/a/model.log": "a file that an artifact may well be called",
    "tokenizers/t/tokenizer.json": "words",
    "databases.json": "{}",
}


def fill(workspace: Workspace, said: str) -> Workspace:
    """Files of every part that all say so, beside those that no copy should hold."""
    workspace.create()
    for name, text in {**LASTING, **PASSING}.items():
        path = workspace.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{said} {text}" if name in LASTING else text)
    step = workspace.runs / "a-1" / "checkpoints"
    (step / "step-00000004").mkdir()
    os.link(step / "step-00000008" / "model.safetensors", step / "step-00000004" / "model.safetensors")
    for database in DATABASES:
        with closing(sqlite3.connect(workspace.root / database)) as connection, connection:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("CREATE TABLE said (it)")
            connection.execute("INSERT INTO said VALUES (?)", (said,))
    return workspace


def content(workspace: Workspace) -> dict[str, str]:
    """What lasts, by path; of databases what they say."""
    found = {name: (workspace.root / name).read_text() for name in LASTING if (workspace.root / name).exists()}
    for database in DATABASES:
        with closing(sqlite3.connect(workspace.root / database)) as connection:
            assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
            found[database] = connection.execute("SELECT it FROM said").fetchone()[0]
    return found


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return fill(Workspace(tmp_path / "one" / ".gpt2flow"), "then")


@pytest.fixture
def file(workspace: Workspace, tmp_path: Path) -> Path:
    return back_up(workspace, tmp_path / "backup.tar", "everything").file


def test_a_lost_workspace_comes_back_as_it_was_at_another_place(workspace: Workspace, file: Path, tmp_path: Path) -> None:
    before = content(workspace)
    shutil.rmtree(workspace.root)
    new = Workspace(tmp_path / "two")
    assert restore(new, file).before is None
    assert content(new) == before
    assert not any((new.root / name).exists() for name in PASSING if name != "databases.lock")
    steps = new.runs / "a-1" / "checkpoints"
    assert (steps / "step-00000004" / "model.safetensors").samefile(steps / "step-00000008" / "model.safetensors")


def test_what_was_there_before_is_kept(workspace: Workspace, file: Path) -> None:
    old, now = content(workspace), fill(Workspace(workspace.root.with_name("other")), "now")
    before = restore(now, file).before
    assert content(now) == old
    assert before is not None
    assert content(Workspace(before))["nights/a/1.json"] == "now night"
    assert (now.root / "prefect" / "server.log").exists()
    restore(now, file)
    assert content(now) == old


@pytest.mark.parametrize("scope", ["records", "databases"])
def test_a_smaller_backup_leaves_what_it_does_not_hold(workspace: Workspace, tmp_path: Path, scope: Any) -> None:
    backup = back_up(workspace, tmp_path / "small.tar", scope)
    now = fill(Workspace(tmp_path / "now"), "now")
    restore(now, backup.file)
    found = content(now)
    assert {found[database] for database in DATABASES} == {"then"}
    assert found["stores/abc/tokens-train-00000.parquet"] == "now tokens"
    assert found["nights/a/1.json"] == ("then night" if scope == "records" else "now night")
    assert ("runs/a-1/checkpoints/step-00000008/manifest.json" in found) == (scope == "databases")
    assert not any("step-" in name and "checkpoints" in name for name in backup.contents.files)


@contextmanager
def busy(*works: Callable[[], None]) -> Iterator[None]:
    """Inside, threads do these again and again."""
    done = threading.Event()

    def work_on(work: Callable[[], None]) -> None:
        while not done.is_set():
            work()

    threads = [threading.Thread(target=work_on, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        done.set()
        for thread in threads:
            thread.join()


def test_a_copy_made_while_all_goes_on_claims_no_more_than_it_holds(workspace: Workspace, tmp_path: Path) -> None:
    (workspace.runs / "a-1" / "metrics.jsonl").write_text("8\n")
    run, number = workspace.runs / "a-1", iter(range(13, 10**8))
    database = sqlite3.connect(workspace.root / DATABASES[0], timeout=60, check_same_thread=False)
    database.execute("CREATE TABLE first (n)")
    database.execute("CREATE TABLE second (n)")

    def transact() -> None:
        with database:
            database.execute("INSERT INTO first VALUES (1)")
            database.execute("INSERT INTO second VALUES (1)")

    def train() -> None:
        """A step is logged, its checkpoint appears, the oldest one goes, and now and then a night claims to be done."""
        step = next(number)
        with (run / "metrics.jsonl").open("a") as log:
            log.write(f"{step}\n")
        half = run / "checkpoints" / f"step-{step:08d}.tmp"
        half.mkdir()
        for name in ("model.safetensors", "optimizer.safetensors", "manifest.json"):
            (half / name).write_text(str(step) * 1000)
        half.rename(half.with_suffix(""))
        remove_folder(run / "checkpoints" / f"step-{step - 2:08d}")
        (workspace.nights / "a" / "done.json.new").write_text(str(step))
        (workspace.nights / "a" / "done.json.new").replace(workspace.nights / "a" / "done.json")
        time.sleep(0.001)

    with busy(transact, train):
        backups = [back_up(workspace, tmp_path / f"{n}.tar", "everything").file for n in range(8)]
    database.close()
    assert next(number) > 20
    for n, backup in enumerate(backups):
        copy = Workspace(tmp_path / f"copy-{n}")
        restore(copy, backup)
        with closing(sqlite3.connect(copy.root / DATABASES[0])) as connection:
            counts = [connection.execute(f"SELECT count(*) FROM {table}").fetchone() for table in ("first", "second")]
        assert counts[0] == counts[1]
        steps = {int(path.name.removeprefix("step-")): path for path in (copy.runs / "a-1" / "checkpoints").iterdir()}
        newest = max(steps)
        assert sorted(path.name for path in steps[newest].iterdir()) == [
            "manifest.json",
            "model.safetensors",
            "optimizer.safetensors",
        ]
        assert int((copy.runs / "a-1" / "metrics.jsonl").read_text().split("\n")[-2]) >= newest
        night = copy.nights / "a" / "done.json"
        assert not night.exists() or int(night.read_text()) <= newest


def test_no_flipped_bit_of_a_backup_passes_for_what_was_written(workspace: Workspace, file: Path, tmp_path: Path) -> None:
    before, raw, draw = content(workspace), file.read_bytes(), random.Random(3)
    refused = 0
    for attempt in range(40):
        position = draw.randrange(len(raw))
        changed = bytearray(raw)
        changed[position] ^= 1 << draw.randrange(8)
        (tmp_path / "flipped.tar").write_bytes(changed)
        target = Workspace(tmp_path / f"flipped-{attempt}")
        try:
            restore(target, tmp_path / "flipped.tar")
        except UserError:
            assert not target.runs.exists()
            refused += 1
        else:  # a bit of padding, or of a header's field that nobody reads
            assert content(target) == before
    assert refused > 12


def test_what_is_no_whole_backup_is_refused_in_a_sentence(workspace: Workspace, file: Path, tmp_path: Path) -> None:
    before = content(workspace)
    (tmp_path / "cut.tar").write_bytes(file.read_bytes()[:30_000])
    (tmp_path / "words.tar").write_text("no tar")
    for name in ("cut.tar", "words.tar"):
        with pytest.raises(UserError, match="is no whole backup of gpt2flow"):
            restore(workspace, tmp_path / name)
    with pytest.raises(UserError, match="There is no file"):
        restore(workspace, tmp_path / "nothing.tar")
    assert content(workspace) == before
    assert not (workspace.root / "restore").exists()


def test_a_file_that_a_stranger_has_put_in_is_not_written(workspace: Workspace, file: Path, tmp_path: Path) -> None:
    with tarfile.open(file, "a") as tar:
        member = tarfile.TarInfo("../escaped")
        member.size = 4
        tar.addfile(member, io.BytesIO(b"evil"))
    with pytest.raises(UserError, match=r"holds \.\./escaped, which is no part of the backup"):
        restore(workspace, file)
    assert not list(tmp_path.rglob("escaped"))


def test_a_backup_of_newer_libraries_is_refused(workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        patched.setattr("tasks.maintenance.backup.version", lambda name: "99.1" if name == "mlflow" else "1.0")
        file = back_up(workspace, tmp_path / "newer.tar", "databases").file
    with pytest.raises(UserError, match=r"made with mlflow 99\.1, and .* install mlflow 99\.1 first"):
        restore(workspace, file)


def test_a_workspace_in_use_is_not_replaced(workspace: Workspace, file: Path) -> None:
    with RunFolder(workspace.runs / "a-1").locked(), pytest.raises(UserError, match=r"run a-1 is being trained \(process"):
        restore(workspace, file)
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        os.open(workspace.root / "runs" / "a-1" / "run.json", os.O_RDONLY)
        os.write(writer, b"open")
        signal.pause()
    os.read(reader, 4)
    try:
        with pytest.raises(UserError, match=rf"process {child} \(.*\) has .*run\.json open"):
            restore(workspace, file)
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    restore(workspace, file)


def test_a_backup_into_the_workspace_or_of_none_is_refused(workspace: Workspace, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="lies inside the workspace"):
        back_up(workspace, workspace.root / "backup.tar", "everything")
    with pytest.raises(UserError, match="There is no workspace at"):
        back_up(Workspace(tmp_path / "nothing"), tmp_path / "backup.tar", "everything")
    with pytest.raises(UserError, match="cannot be written"):
        back_up(workspace, tmp_path / "nowhere" / "backup.tar", "everything")


def test_a_restore_killed_at_any_renaming_loses_nothing(workspace: Workspace, file: Path, tmp_path: Path) -> None:
    old, outcomes = content(workspace), []
    for moment in range(100):
        target = fill(Workspace(tmp_path / f"killed-{moment}"), "now")
        now = content(target)
        ended = restore_killed(target, file, moment)
        finish_replacement(target)  # as the next command does
        assert content(target) in (now, old)
        outcomes.append(content(target) == old)
        if outcomes[-1]:
            (kept,) = target.root.glob("before-restore-*")
            assert content(Workspace(kept / "old")) == now
        if ended:
            break
    assert len(outcomes) > 15
    assert outcomes == sorted(outcomes)
    assert not outcomes[0]
    assert outcomes[-1]


def restore_killed(target: Workspace, file: Path, moment: int) -> bool:
    """Restore in a child that is killed before its renaming of that number; returns whether it came to its end."""
    if not (child := os.fork()):
        renamings, rename = iter(range(10**6)), Path.rename

        def rename_or_die(path: Path, other: Path) -> Path:
            if next(renamings) == moment:
                os.kill(os.getpid(), signal.SIGKILL)
            return rename(path, other)

        Path.rename = rename_or_die  # type: ignore[method-assign,assignment]
        restore(target, file)
        os._exit(0)
    return os.waitpid(child, 0)[1] == 0


def test_a_backup_says_what_is_not_in_it(workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", workspace.mlflow_database)
    contents = back_up(workspace, tmp_path / "backup.tar", "records").contents
    assert contents.elsewhere == ["prefect"]
    with tarfile.open(tmp_path / "backup.tar") as tar:
        member = tar.extractfile("gpt2flow-backup.json")
        assert member is not None
        assert json.load(member)["scope"] == "records"
