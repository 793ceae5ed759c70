"""Checkpoints are complete or absent, and what is damaged is found before it is used."""

import json
from pathlib import Path

import pytest
import torch

from configs.schema import TrainSettings
from gpt2core.checkpoints.checkpoint import (
    Checkpoint,
    find_checkpoints,
    find_damage,
    newest_valid,
    restore,
    save_checkpoint,
    set_aside,
)
from gpt2core.machine.sealed_json import read_sealed, write_sealed
from gpt2core.model.config import GPT2Config
from gpt2core.model.gpt2 import GPT2
from gpt2core.store.token_store import TokenStore
from gpt2core.text.tokenizer import Tokenizer, load_tokenizer
from gpt2core.training.batches import Batches
from gpt2core.training.trainer import Trainer
from gpt2core.weights.loading import load_model

FILES = ["config.json", "manifest.json", "model.safetensors", "optimizer.safetensors", "state.json", "tokenizer.json"]


@pytest.fixture
def trainer(store: TokenStore) -> Trainer:
    settings = TrainSettings(steps=10, batch_size=2, warmup_steps=0)
    model = GPT2(GPT2Config(300, 8, 8, 2, 1)).initialise(0)
    return Trainer(model, Batches(store.stream("train"), 8, 2, 0), settings)


@pytest.fixture
def three(trainer: Trainer, tokenizer: Tokenizer, tmp_path: Path) -> Path:
    """A folder with checkpoints of steps 1, 2 and 3."""
    for step in (1, 2, 3):
        trainer.run_until(step)
        save_checkpoint(tmp_path, trainer, tokenizer, {"run": "test"})
    return tmp_path


def test_a_checkpoint_is_a_model_folder_with_its_tokenizer(three: Path, trainer: Trainer, tokenizer: Tokenizer) -> None:
    folder = three / "step-00000003"
    assert sorted(path.name for path in folder.iterdir()) == FILES
    loaded = load_model(folder)
    assert all((a == b).all() for a, b in zip(loaded.parameters(), trainer.model.parameters(), strict=True))
    assert load_tokenizer(folder).sha256 == tokenizer.sha256
    assert json.loads((folder / "state.json").read_text())["run"] == "test"


def test_the_same_state_gives_the_same_bytes(three: Path, trainer: Trainer, tokenizer: Tokenizer, tmp_path: Path) -> None:
    again = save_checkpoint(tmp_path / "again", trainer, tokenizer, {"run": "test"})
    for name in FILES:
        assert (again.path / name).read_bytes() == (three / "step-00000003" / name).read_bytes()


@pytest.mark.parametrize("name", FILES)
def test_one_flipped_bit_in_any_file_is_found_and_the_one_before_is_used(three: Path, name: str) -> None:
    path = three / "step-00000003" / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    checkpoint, damaged = newest_valid(three)
    assert checkpoint == Checkpoint(three / "step-00000002", 2)
    ((found, damage),) = damaged
    assert found.step == 3
    assert name in damage


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_named(three: Path, name: str) -> None:
    (three / "step-00000003" / name).unlink()
    assert name in find_damage(Checkpoint(three / "step-00000003", 3))


def test_a_truncated_file_is_named(three: Path) -> None:
    path = three / "step-00000003" / "optimizer.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    assert "optimizer.safetensors" in find_damage(Checkpoint(path.parent, 3))


def test_a_checkpoint_of_a_newer_version_is_refused_with_both_numbers(three: Path) -> None:
    path = three / "step-00000003" / "manifest.json"
    write_sealed(path, {**read_sealed(path), "schema_version": 9})
    assert "newer gpt2flow (format 9, known is 1)" in find_damage(Checkpoint(path.parent, 3))


def test_an_unfinished_checkpoint_does_not_count(three: Path) -> None:
    (three / "step-00000003").rename(three / "step-00000003.tmp")
    assert [checkpoint.step for checkpoint in find_checkpoints(three)] == [1, 2]


def test_a_checkpoint_of_another_run_or_step_is_named(three: Path) -> None:
    assert find_damage(Checkpoint(three / "step-00000003", 3), "mine") == "state.json is of another run, test"
    (three / "step-00000002").rename(three / "step-00000007")
    assert find_damage(Checkpoint(three / "step-00000007", 7)) == "state.json is of step 2"


def test_a_damaged_checkpoint_is_set_aside_and_not_removed(three: Path) -> None:
    (three / "step-00000003" / "model.safetensors").write_bytes(b"")
    aside = set_aside(Checkpoint(three / "step-00000003", 3))
    assert (aside / "optimizer.safetensors").is_file()
    assert [checkpoint.step for checkpoint in find_checkpoints(three)] == [1, 2]


def test_a_damaged_checkpoint_of_the_same_step_is_written_again(three: Path, trainer: Trainer, tokenizer: Tokenizer) -> None:
    (three / "step-00000003" / "model.safetensors").write_bytes(b"")
    saved = save_checkpoint(three, trainer, tokenizer, {})
    assert find_damage(saved) == ""


def test_a_process_that_keeps_a_part_of_the_state_reads_that_part(three: Path, store: TokenStore, trainer: Trainer) -> None:
    last = find_checkpoints(three)[-1]
    alone = Trainer(GPT2(trainer.model.config), trainer.batches, trainer.settings)
    restore(alone, last)
    part = Trainer(GPT2(trainer.model.config), trainer.batches, trainer.settings)
    own = set(part.optimizer.parameters[::2])
    part.optimizer.keep(own)
    restore(part, last)
    whole, kept = alone.optimizer.tensors(), part.optimizer.tensors()
    assert kept.keys() == {"step", *(name for name, parameter in part.optimizer.moments if parameter in own)}
    assert all(torch.equal(whole[name], tensor) for name, tensor in kept.items())
    assert part.optimizer.checkpoint_bytes == alone.optimizer.checkpoint_bytes
