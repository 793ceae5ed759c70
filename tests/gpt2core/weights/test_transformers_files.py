"""A model that transformers 5.24 saved in shards, and what it answered: tests/interop sent gguf-tiny through it."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from configs.errors import UserError
from gpt2core import load_model, load_tokenizer


@pytest.fixture
def saved(golden: Path) -> Path:
    return golden / "transformers-tiny"


def test_its_shards_give_its_logits_and_its_vocabulary_its_ids(saved: Path) -> None:
    answer = np.load(saved / "answer.npz")
    assert load_tokenizer(saved).encode("To be, or not") == answer["ids"][0].tolist()
    with torch.no_grad():
        found = load_model(saved)(torch.from_numpy(answer["ids"]))
    np.testing.assert_allclose(found.numpy(), answer["logits"], atol=1e-4)


def test_what_went_through_it_comes_back_bit_for_bit(saved: Path, golden: Path) -> None:
    one, other = load_model(saved).state_dict(), load_model(golden / "gguf-tiny").state_dict()
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_shard_that_is_not_there_is_named(saved: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(saved, tmp_path / "cut"))
    (folder / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(UserError, match=r"model-00002-of-00003\.safetensors, which is not in the folder"):
        load_model(folder)
