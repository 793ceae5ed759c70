"""What run.json says is read as it was written, by this version or another."""

import json
from pathlib import Path
from typing import Any

import pytest

from configs.errors import UserError
from tasks.runs.run_folder import RunFolder
from tasks.runs.run_record import Change, RunRecord


@pytest.fixture
def written(golden: Path) -> dict[str, Any]:
    """As version 0.1.0 wrote it."""
    (file,) = (golden / "run-0.1.0" / "runs").glob("*/run.json")
    values: dict[str, Any] = json.loads(file.read_text())
    del values["checksum"]
    return values


def test_what_version_0_1_wrote_says_the_same_again(written: dict[str, Any]) -> None:
    record = RunRecord.model_validate(written)
    assert (record.id, record.name, record.config.train.steps) == (written["id"], "old", 20)
    assert record.as_json() == {**written, "splits": {}}


def test_everything_comes_back_and_what_a_later_version_adds_stays(written: dict[str, Any], tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    record = RunRecord.model_validate({**written, "splits": {"7": 2}, "mood": "good"})
    folder.write_record(record.model_copy(update={"changes": [Change(step=3, settings={"train.clip": ["1.0", None]})]}))
    assert folder.record.batch_cuts == {7: 2}
    assert folder.record.changes[0].settings == {"train.clip": ["1.0", None]}
    assert folder.read("run")["mood"] == "good"


def test_a_config_that_this_version_does_not_know_is_one_sentence(written: dict[str, Any]) -> None:
    written["config"]["train"]["sharpness"] = 1
    with pytest.raises(UserError, match=r"old-84cb25e2 has a config of another version of gpt2flow \(train\.sharpness: Extra"):
        RunRecord.model_validate(written).config  # noqa: B018


@pytest.mark.parametrize("values", [{}, {"id": "a-1"}])
def test_what_is_no_record_is_none(values: dict[str, Any], tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    if values:
        folder.write("run", values)
    assert folder.read_record() is None
    with pytest.raises(UserError, match=r"run\.json is missing or damaged: run the same command again"):
        folder.record  # noqa: B018
