"""What a plan finds out without doing the work of a run."""

from pathlib import Path

import pytest

from configs.schema import RunConfig
from gpt2core.model.config import RELEASED_SIZES
from gpt2core.weights import hub
from tasks.plan_run import _sizes, _windows_per_epoch
from tasks.workspace.folders import Workspace


def test_a_plan_of_a_model_on_the_hub_knows_its_sizes_and_fetches_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(repository: str) -> Path:
        pytest.fail(f"{repository} would be fetched")

    monkeypatch.setattr(hub, "_download", refuse)
    model = {"base": "hub:openai-community/gpt2-xl"}
    config, notes = RunConfig.model_validate({"name": "far", "model": model, "tokenizer": {"source": "base"}}), list[str]()
    assert _sizes(config, notes) == RELEASED_SIZES["1558M"]
    assert _windows_per_epoch(config, notes) is None
    assert notes == ["Epochs are not known: the vocabulary comes with the base model, which a plan does not fetch."]


def test_a_plan_trains_no_vocabulary() -> None:
    sizes = {"n_ctx": 16, "n_embd": 16, "n_head": 2, "n_layer": 1}
    config = RunConfig.model_validate({"name": "near", "model": sizes, "tokenizer": {"vocab_size": 283}})
    before, notes = set(Workspace.current().create().tokenizers.glob("*")), list[str]()
    assert _windows_per_epoch(config, notes) is None
    assert set(Workspace.current().tokenizers.glob("*")) == before
    assert notes == ["Epochs are not known: the text is not encoded yet (gpt2flow encode with the same config)."]
