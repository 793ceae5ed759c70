"""Copies of registered models go when nobody has asked for them in a week. That they are fetched once, test_team.py shows."""

import os
import time
from pathlib import Path

from tasks.runs.fetched_models import KEPT, _remove_unused


def test_only_what_was_used_lately_is_kept(tmp_path: Path) -> None:
    for name, age in (("used", 0.0), ("old", KEPT + 60)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "MLmodel").touch()
        os.utime(tmp_path / name, (time.time() - age, time.time() - age))
    _remove_unused(tmp_path)
    assert [copy.name for copy in tmp_path.iterdir()] == ["used"]
