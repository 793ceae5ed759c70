"""A checkpoint that is written beside training holds the state of the step at which it was asked for."""

import threading
from pathlib import Path

import pytest
import torch

from configs.schema import TrainSettings
from gpt2core.checkpoints.background_saver import BackgroundSaver
from gpt2core.checkpoints.checkpoint import (
    Snapshot,
    find_checkpoints,
    find_damage,
    save_checkpoint,
    take_snapshot,
    write_checkpoint,
)
from gpt2core.model.config import GPT2Config
from gpt2core.model.gpt2 import GPT2
from gpt2core.store.token_store import TokenStore
from gpt2core.text.tokenizer import Tokenizer
from gpt2core.training.batches import Batches
from gpt2core.training.trainer import Trainer


@pytest.fixture
def trainer(store: TokenStore) -> Trainer:
    settings = TrainSettings(steps=20, batch_size=2, warmup_steps=0)
    return Trainer(GPT2(GPT2Config(300, 16, 32, 2, 2, 0.1)).initialise(0), Batches(store.stream("train"), 16, 2, 0), settings)


def test_training_on_does_not_change_what_is_saved(trainer: Trainer, tokenizer: Tokenizer, tmp_path: Path) -> None:
    trained_on = threading.Event()

    def write_late(snapshot: Snapshot) -> None:
        trained_on.wait()
        write_checkpoint(tmp_path / "beside", snapshot, tokenizer)

    saver = BackgroundSaver(trainer, write_late)
    trainer.run_until(3)
    expected = save_checkpoint(tmp_path / "held", trainer, tokenizer, {})
    saver.save(take_snapshot(trainer, {}))
    trainer.run_until(9)
    assert saver.busy
    trained_on.set()
    assert saver.wait()
    (beside,) = find_checkpoints(tmp_path / "beside")
    assert find_damage(beside) == ""
    for file in expected.path.iterdir():
        assert (beside.path / file.name).read_bytes() == file.read_bytes(), file.name


def test_the_update_waits_until_the_copy_is_complete(trainer: Trainer, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer.run_until(1)
    before = {name: parameter.detach().clone() for name, parameter in trainer.model.named_parameters()}
    seen: list[Snapshot] = []
    copy_begins, to = threading.Event(), torch.Tensor.to

    def slow_copy(tensor: torch.Tensor, *arguments: object, **options: object) -> torch.Tensor:
        if "copy" in options:
            copy_begins.wait(0.02)  # nobody sets it: every copied tensor takes this long
        return to(tensor, *arguments, **options)  # type: ignore[call-overload,no-any-return]

    monkeypatch.setattr(torch.Tensor, "to", slow_copy)
    saver = BackgroundSaver(trainer, seen.append)
    saver.save(take_snapshot(trainer, {}))
    trainer.run_until(2)
    saver.wait()
    assert all(torch.equal(before[name], copied) for name, copied in seen[0].weights.items())
    assert not all(torch.equal(before[name], now) for name, now in trainer.model.named_parameters())


def test_what_went_wrong_reaches_who_waits_once(trainer: Trainer) -> None:
    def fail(_: Snapshot) -> None:
        raise OSError(5, "the disk is broken")

    trainer.run_until(1)
    saver = BackgroundSaver(trainer, fail)
    saver.save(take_snapshot(trainer, {}))
    trainer.run_until(2)
    with pytest.raises(OSError, match="the disk is broken"):
        saver.wait()
    assert not saver.wait()
