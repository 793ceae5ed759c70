"""A folder that changes: many changes are one, once it is left alone."""

import threading
import time
from pathlib import Path

import pytest

import tasks  # noqa: F401  # first: it points Prefect at the tests' workspace
from configs.errors import UserError
from tasks.scheduling.watching import settled_changes, watch_folder

SETTLE = 1.5  # seconds


def test_many_changes_are_one_as_soon_as_none_has_come_for_a_while(tmp_path: Path) -> None:
    written = []

    def write() -> None:
        time.sleep(0.5)
        for number in range(8):
            (tmp_path / f"{number}.txt").write_text("text")
            written.append(time.monotonic())
            time.sleep(0.3)

    writer = threading.Thread(target=write)
    writer.start()
    changes = next(settled_changes(tmp_path, SETTLE))
    writer.join()
    assert len(written) == 8
    assert changes >= 8
    assert time.monotonic() - written[-1] >= SETTLE


def test_a_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nowhere is not there"):
        watch_folder(tmp_path / "nowhere", SETTLE)
