"""Pruning removes what nothing gives a reason to keep, and never the last good checkpoint."""

import json
from pathlib import Path

import pytest

from configs.schema import TrainSettings
from gpt2core.checkpoints.checkpoint import Checkpoint, find_checkpoints, find_damage, save_checkpoint
from gpt2core.checkpoints.retention import pin, prune, reasons_to_keep
from gpt2core.checkpoints.weights_history import find_weights
from gpt2core.model.config import GPT2Config
from gpt2core.model.gpt2 import GPT2
from gpt2core.store.token_store import TokenStore
from gpt2core.text.tokenizer import Tokenizer
from gpt2core.training.batches import Batches
from gpt2core.training.trainer import Trainer
from gpt2core.weights.loading import load_model

HOUR = 3600.0
FILES = ["config.json", "manifest.json", "model.safetensors", "state.json", "tokenizer.json"]
SETTINGS = TrainSettings(steps=10, batch_size=2, warmup_steps=0, keep_checkpoints=1, keep_best=1, keep_every_hours=2)


@pytest.fixture
def six(store: TokenStore, tokenizer: Tokenizer, tmp_path: Path) -> Path:
    """Checkpoints of steps 1 to 6, one an hour; the run began an hour before the first."""
    trainer = Trainer(GPT2(GPT2Config(300, 8, 8, 2, 1)).initialise(0), Batches(store.stream("train"), 8, 2, 0), SETTINGS)
    for step in range(1, 7):
        trainer.run_until(step)
        save_checkpoint(tmp_path, trainer, tokenizer, {"saved": step * HOUR})
    return tmp_path


def steps_in(folder: Path) -> list[int]:
    return [checkpoint.step for checkpoint in find_checkpoints(folder)]


def test_each_reason_keeps_what_it_should(six: Path) -> None:
    pin(Checkpoint(six / "step-00000003", 3))
    reasons = reasons_to_keep(find_checkpoints(six), SETTINGS, {1: 3.0, 5: 2.0}, started=0.0)
    assert reasons == {1: [], 2: ["every 2 h"], 3: ["pinned"], 4: ["every 2 h"], 5: ["best"], 6: ["last", "every 2 h"]}
    assert [c.step for c in prune(six, SETTINGS, {1: 3.0, 5: 2.0}, 0.0)] == [1]


def test_a_clock_that_was_set_back_does_not_end_the_hourly_ones(six: Path) -> None:
    reasons = reasons_to_keep(find_checkpoints(six), SETTINGS, {}, started=100 * HOUR)
    assert [step for step, why in reasons.items() if "every 2 h" in why] == [1, 3, 5]


def test_without_hours_only_the_newest_and_the_best_stay(six: Path) -> None:
    prune(six, SETTINGS.model_copy(update={"keep_every_hours": 0.0, "keep_best": 2}), {1: 3.0, 2: 2.5, 3: 2.0}, 0.0)
    assert steps_in(six) == [2, 3, 6]


def test_the_weights_of_what_goes_stay_if_wanted(six: Path) -> None:
    before = (six / "step-00000002" / "model.safetensors").read_bytes()
    (six / "step-00000003" / "model.safetensors").write_bytes(b"")
    settings = SETTINGS.model_copy(update={"keep_every_hours": 0.0, "keep_weights_history": True})
    for _ in range(2):
        prune(six, settings, {1: 3.0}, 0.0)
        assert steps_in(six) == [1, 6]
        assert [kept.step for kept in find_weights(six)] == [2, 4, 5]  # what is damaged is no history
        assert not any(find_damage(kept) for kept in find_weights(six))
    kept = six / "weights-00000002"
    assert sorted(file.name for file in kept.iterdir()) == FILES
    assert (kept / "model.safetensors").read_bytes() == before
    assert load_model(kept).config == load_model(six / "step-00000006").config


def test_nothing_is_pruned_while_the_newest_is_damaged(six: Path) -> None:
    (six / "step-00000006" / "model.safetensors").write_bytes(b"")
    assert prune(six, SETTINGS, {}, 0.0) == []
    assert steps_in(six) == [1, 2, 3, 4, 5, 6]


def test_an_unreadable_time_keeps_no_checkpoint_and_stops_nothing(six: Path) -> None:
    (six / "step-00000002" / "state.json").write_text(json.dumps({}))
    prune(six, SETTINGS, {}, 0.0)
    assert steps_in(six)[-1] == 6
