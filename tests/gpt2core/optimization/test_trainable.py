"""What is frozen does not change, has no gradient and no moments, and is stored once.

Also tests `gpt2core.checkpoints.frozen_weights`, `gpt2core.checkpoints.weights`.
"""

import json
import os
from pathlib import Path

import pytest
import torch
from torch import Tensor

from configs.errors import UserError
from configs.schema import TrainSettings
from gpt2core.checkpoints.checkpoint import Checkpoint, find_damage, newest_valid, remove_leftovers, restore, save_checkpoint
from gpt2core.checkpoints.frozen_weights import mend_frozen_weights
from gpt2core.checkpoints.weights import FROZEN, export_model
from gpt2core.machine.durable import remove_folder
from gpt2core.model.config import GPT2Config
from gpt2core.model.gpt2 import GPT2
from gpt2core.optimization.trainable import matching
from gpt2core.store.token_store import TokenStore
from gpt2core.text.tokenizer import Tokenizer
from gpt2core.training.batches import Batches
from gpt2core.training.trainer import Trainer
from gpt2core.weights.loading import load_model

LORA = {"trainable": "lora", "lora": {"rank": 2, "dropout": 0.1}}
PARTS = [{"trainable": "transformer"}, {"trainable": ["ln_*", "h.1.mlp.*"]}, LORA]
Saved = tuple[Path, Trainer, dict]
NAMES = [name for name, _ in GPT2(GPT2Config(300, 16, 16, 2, 2)).named_parameters()]


def make_trainer(store: TokenStore, **options: object) -> Trainer:
    settings = TrainSettings.model_validate({"steps": 20, "batch_size": 2, "warmup_steps": 0, "learning_rate": 1e-2, **options})
    model = GPT2(GPT2Config(300, 16, 48, 2, 2)).initialise(0)
    return Trainer(model, Batches(store.stream("train"), 16, 2, 0), settings)


def weights(model: GPT2) -> dict[str, Tensor]:
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def test_transformer_is_the_blocks_alone() -> None:
    assert matching(["transformer"], NAMES) == {name for name in NAMES if name.startswith("h.")}
    assert {"wte.weight", "wpe.weight", "ln_f.weight", "ln_f.bias"} == set(NAMES) - matching(["transformer"], NAMES)
    assert matching(["all"], NAMES) == set(NAMES)


def test_patterns_add_up() -> None:
    assert matching(["ln_f.*", "h.1.attn.*.bias"], NAMES) == {
        "ln_f.weight", "ln_f.bias", "h.1.attn.c_attn.bias", "h.1.attn.c_proj.bias",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("pattern", "near"), [("h.1.atn.c_attn.weight", "h.1.attn.c_attn.weight"), ("transformr", "transformer")]
)
def test_a_pattern_without_a_match_is_refused_with_the_nearest_names(pattern: str, near: str) -> None:
    with pytest.raises(UserError, match=rf"'{pattern}' matches no parameter: .*the nearest names are .*{near}"):
        matching(["wte.*", pattern], NAMES)


def test_a_block_that_is_not_there_is_refused_with_the_last_one() -> None:
    with pytest.raises(UserError, match=r"'h.7.\*' matches no parameter: use .* such as h\.1\.\* \(the last block\)\.$"):
        matching(["h.7.*"], NAMES)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("part", PARTS)
def test_only_the_chosen_parameters_have_gradients_moments_and_changes(store: TokenStore, part: dict, dtype: str) -> None:
    trainer = make_trainer(store, **part, dtype=dtype)
    before = weights(trainer.model)
    chosen = {name for name in before if "lora" in name} if part == LORA else matching([*_patterns(part)], list(before))
    trainer.run_until(3)
    for model in (trainer.model, trainer.computing_model()):
        assert {name for name, parameter in model.named_parameters() if parameter.requires_grad} == chosen
    assert {name for name, parameter in trainer.model.named_parameters() if parameter.grad is not None} == chosen
    moments = trainer.optimizer.tensors()
    assert moments.keys() == {"step", *(f"{key}.{name}" for key in ("exp_avg", "exp_avg_sq") for name in chosen)}
    after = weights(trainer.model)
    assert {name for name in before if not torch.equal(before[name], after[name])} == chosen


def _patterns(part: dict) -> list[str]:
    return [part["trainable"]] if isinstance(part["trainable"], str) else part["trainable"]


def test_the_gradients_of_a_part_are_those_of_the_whole(store: TokenStore) -> None:
    part, whole = make_trainer(store, trainable="transformer", clip=0.0), make_trainer(store, clip=0.0)
    for trainer in (part, whole):
        trainer.run_until(1)
    for name, parameter in part.model.named_parameters():
        if parameter.requires_grad:
            assert torch.equal(parameter.grad, whole.model.get_parameter(name).grad), name


@pytest.fixture(params=PARTS, ids=["transformer", "patterns", "lora"])
def saved(request: pytest.FixtureRequest, store: TokenStore, tokenizer: Tokenizer, tmp_path: Path) -> Saved:
    """A folder with checkpoints of steps 1, 2 and 3, their trainer and its options."""
    trainer, folder = make_trainer(store, **request.param), tmp_path / "checkpoints"
    for step in (1, 2, 3):
        trainer.run_until(step)
        save_checkpoint(folder, trainer, tokenizer, {"run": "test"})
    return folder, trainer, request.param


def test_frozen_weights_are_stored_once_and_every_checkpoint_is_a_whole_model(saved: Saved) -> None:
    folder, trainer, _ = saved
    frozen = sum(p.nbytes for p in trainer.model.parameters() if not p.requires_grad)
    files = {(file.stat().st_ino, file.stat().st_size) for file in folder.rglob("*.safetensors")}
    assert sum(size for _, size in files) < frozen + 3 * trainer.optimizer.checkpoint_bytes + 40_000
    assert (folder / FROZEN).stat().st_nlink == 4
    tokens = torch.arange(16)[None]
    trainer.model.eval()
    loaded = load_model(folder / "step-00000003")
    torch.testing.assert_close(loaded(tokens), trainer.model(tokens), rtol=0, atol=1e-5)


def test_a_checkpoint_survives_its_siblings_and_a_move(saved: Saved, store: TokenStore) -> None:
    folder, trainer, options = saved
    for step in (1, 3):
        remove_folder(folder / f"step-0000000{step}")
    moved = folder.with_name("moved")
    folder.rename(moved)
    (moved / FROZEN).unlink()
    checkpoint, damaged = newest_valid(moved)
    assert checkpoint == Checkpoint(moved / "step-00000002", 2)
    assert not damaged
    other = make_trainer(store, **options)
    restore(other, checkpoint)
    other.run_until(3)
    assert all(torch.equal(a, b) for a, b in zip(other.model.parameters(), trainer.model.parameters(), strict=True))


def test_a_flipped_bit_in_frozen_weights_is_found_and_not_saved_again(saved: Saved, tokenizer: Tokenizer) -> None:
    folder, trainer, _ = saved
    with (folder / FROZEN).open("r+b") as file:
        file.seek(-7, os.SEEK_END)
        byte = file.read(1)[0]
        file.seek(-7, os.SEEK_END)
        file.write(bytes([byte ^ 1]))
    assert "safetensors is not what was written" in find_damage(Checkpoint(folder / "step-00000003", 3))
    trainer.run_until(4)
    assert find_damage(save_checkpoint(folder, trainer, tokenizer, {"run": "test"})) == ""


@pytest.mark.parametrize("damage", ["flipped bit", "missing"])
def test_damaged_frozen_weights_are_mended_in_every_checkpoint_from_the_base_model(
    saved: Saved, store: TokenStore, damage: str
) -> None:
    folder, _, options = saved
    before = {file: file.read_bytes() for file in folder.glob("step-*/*")}
    shared = [file for file in before if file.samefile(folder / FROZEN)]
    for file in shared:
        file.write_bytes(b"other") if damage == "flipped bit" else file.unlink()
    assert len(newest_valid(folder)[1]) == 3
    assert mend_frozen_weights(folder, make_trainer(store, **options).model)
    assert {file: file.read_bytes() for file in folder.glob("step-*/*")} == before
    assert not mend_frozen_weights(folder, make_trainer(store, **options).model)


def test_another_base_model_mends_nothing(saved: Saved, store: TokenStore) -> None:
    folder, _, options = saved
    (folder / FROZEN).write_bytes(b"other")
    other = make_trainer(store, **options).model.initialise(1)
    assert not mend_frozen_weights(folder, other)
    assert len(newest_valid(folder)[1]) == 3


def test_the_same_state_gives_the_same_bytes(saved: Saved, tokenizer: Tokenizer, tmp_path: Path) -> None:
    folder, trainer, _ = saved
    again = save_checkpoint(tmp_path / "again", trainer, tokenizer, {"run": "test"})
    files = list((folder / "step-00000003").iterdir())
    assert [(again.path / file.name).read_bytes() == file.read_bytes() for file in files] == [True] * len(files)


def test_what_a_kill_leaves_of_the_frozen_file_is_removed(saved: Saved) -> None:
    folder, _, _ = saved
    (folder / f"{FROZEN}.tmp").write_bytes(b"half")
    remove_leftovers(folder)
    assert not (folder / f"{FROZEN}.tmp").exists()


@pytest.mark.parametrize("merge", [True, False])
def test_an_exported_model_is_whole(saved: Saved, merge: bool, tmp_path: Path) -> None:
    folder, _, options = saved
    target = tmp_path / "export"
    target.mkdir()
    export_model(folder / "step-00000003", target, merge=merge)
    adapted = options == LORA and not merge
    expected = {"config.json", "model.safetensors", "tokenizer.json"}
    assert {file.name for file in target.iterdir()} == (
        {*expected, "adapter_config.json", "adapter_model.safetensors"} if adapted else expected
    )
    tokens = torch.arange(16)[None]
    assert torch.equal(load_model(target)(tokens), load_model(folder / "step-00000003")(tokens))
    assert json.loads((target / "config.json").read_text())["n_layer"] == 2
