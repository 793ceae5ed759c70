"""The lens on a model by its name: a folder here, all checkpoints of a run side by side."""

from pathlib import Path

import pytest

from configs.errors import UserError
from configs.generation import SampleSettings
from gpt2core import load_model, load_tokenizer
from gpt2core.lens.reading import read_lens
from tasks.models.lens import look, look_across
from tasks.runs.run_folder import RunFolder

SETTINGS = SampleSettings(max_new_tokens=3, temperature=0.0)


def test_a_folder_is_read_as_its_model_is(golden: Path) -> None:
    tiny = golden / "openai-tiny" / "models" / "tiny"
    reading = look(str(tiny), "ab", SETTINGS, [" "], None, ecco_compat=False)
    assert reading == read_lens(load_model(tiny), load_tokenizer(tiny), "ab", SETTINGS, [" "])


def test_all_checkpoints_of_a_run_are_read_in_order(golden: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written = RunFolder(next((golden / "run-0.1.0" / "runs").iterdir()))
    monkeypatch.setenv("GPT2FLOW_HOME", str(golden / "run-0.1.0"))
    history = look_across(written.id, "The", SETTINGS, [], ecco_compat=False)
    assert list(history) == [10, 20]
    assert history[20] == look(str(written.checkpoint_path(20)), "The", SETTINGS, [], None, ecco_compat=False)


def test_a_run_without_checkpoints_is_one_sentence(tmp_path: Path, golden: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = tmp_path / "runs" / "old-84cb25e2"
    run.mkdir(parents=True)
    source = golden / "run-0.1.0" / "runs" / "old-84cb25e2" / "run.json"
    (run / "run.json").write_bytes(source.read_bytes())
    monkeypatch.setenv("GPT2FLOW_HOME", str(tmp_path))
    with pytest.raises(UserError, match="has no checkpoint to look at"):
        look_across("old-84cb25e2", "The", SETTINGS, [], ecco_compat=False)
