"""A model written for other programs computes what it computed before."""

import shutil
from pathlib import Path

import pytest
import torch

from configs.errors import UserError
from gpt2core import load_model, load_tokenizer
from tasks.models.export import export

WHOLE = {"config.json", "model.safetensors", "tokenizer.json"}
ADAPTERS = {"adapter_config.json", "adapter_model.safetensors"}
TOKENS = torch.arange(24)[None]


@pytest.fixture
def released(golden: Path) -> Path:
    return golden / "openai-tiny" / "models" / "tiny"


@pytest.fixture
def adapted(released: Path, golden: Path, tmp_path: Path) -> Path:
    """A base model with adapters that peft has saved."""
    export(str(released), tmp_path / "adapted", merge=True)
    for name in ADAPTERS:
        shutil.copyfile(golden / "peft-tiny" / name, tmp_path / "adapted" / name)
    return tmp_path / "adapted"


def names(folder: Path) -> set[str]:
    return {file.name for file in folder.iterdir()}


def test_a_released_model_is_written_as_hugging_face_has_it(released: Path, tmp_path: Path) -> None:
    export(str(released), tmp_path / "new" / "model", merge=True)
    assert names(tmp_path / "new" / "model") == WHOLE
    assert torch.equal(load_model(tmp_path / "new" / "model")(TOKENS), load_model(released)(TOKENS))
    assert load_tokenizer(tmp_path / "new" / "model").encode("Größe 1") == load_tokenizer(released).encode("Größe 1")


def test_adapters_are_merged(adapted: Path, released: Path, tmp_path: Path) -> None:
    export(str(adapted), tmp_path / "merged", merge=True)
    assert names(tmp_path / "merged") == WHOLE
    found = load_model(tmp_path / "merged")(TOKENS)
    assert torch.equal(found, load_model(adapted)(TOKENS))
    assert not torch.equal(found, load_model(released)(TOKENS))


def test_adapters_may_stay_beside_their_base(adapted: Path, tmp_path: Path) -> None:
    export(str(adapted), tmp_path / "apart", merge=False)
    assert names(tmp_path / "apart") == WHOLE | ADAPTERS
    for name in WHOLE | ADAPTERS:
        assert (tmp_path / "apart" / name).read_bytes() == (adapted / name).read_bytes()


def test_what_cannot_be_written_is_refused_and_leaves_nothing(released: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"has no adapters of gpt2flow to be kept apart: leave --no-merge out"):
        export(str(released), tmp_path / "apart", merge=False)
    assert names(tmp_path) == set()
    (tmp_path / "there").mkdir()
    with pytest.raises(UserError, match=r"there is there already: give the name of a new folder"):
        export(str(released), tmp_path / "there", merge=True)
