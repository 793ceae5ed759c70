"""state.json is read as it was written, by this version or another."""

import json
from pathlib import Path

import pytest

from gpt2core.checkpoints.checkpoint import Checkpoint, find_checkpoints, read_state
from gpt2core.checkpoints.state import CheckpointState
from gpt2core.machine.sealed_json import DamagedFileError, write_sealed


def test_what_version_0_1_wrote_is_read(golden: Path) -> None:
    (run,) = (golden / "run-0.1.0" / "runs").iterdir()
    newest = find_checkpoints(run / "checkpoints")[-1]
    raw, state = json.loads((newest.path / "state.json").read_text()), read_state(newest)
    assert (state.step, state.run, state.store, state.settings) == (20, run.name, raw["store"], raw["config"])
    assert state.logs["metrics.jsonl"].model_dump() == raw["logs"]["metrics.jsonl"]
    assert (state.replaced, state.batch_cuts, state.versions, state.key) == ({}, {}, raw["versions"], raw["key"])


def test_updates_are_numbers_again(tmp_path: Path) -> None:
    write_sealed(tmp_path / "state.json", {"step": 9, "replaced": {"5": 1}, "splits": {"7": 2}})
    assert read_state(Checkpoint(tmp_path, 9)) == CheckpointState(step=9, replaced={5: 1}, splits={7: 2})


def test_what_is_no_state_is_damaged(tmp_path: Path) -> None:
    write_sealed(tmp_path / "state.json", {"replaced": {"5": 1}})
    with pytest.raises(DamagedFileError, match=r"state\.json is damaged"):
        read_state(Checkpoint(tmp_path, 9))
