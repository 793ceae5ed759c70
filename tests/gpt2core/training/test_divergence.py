"""An update whose loss or gradient is not finite is never applied, whatever is done about it then."""

from pathlib import Path

import pytest
import torch

from configs.errors import UserError
from configs.schema import TrainSettings
from gpt2core.checkpoints.checkpoint import restore, save_checkpoint
from gpt2core.model.config import GPT2Config
from gpt2core.model.gpt2 import GPT2
from gpt2core.store.token_store import TokenStore
from gpt2core.text.tokenizer import Tokenizer
from gpt2core.training.batches import Batches
from gpt2core.training.trainer import DivergedError, Trainer

POISONED = 6  # the update, counted from 1, whose own windows give a gradient of NaN


class PoisonedBatches(Batches):
    """Batches of which one makes the model's gradient NaN."""

    poison = False

    def at(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        self.poison = index == POISONED - 1
        return super().at(index)


def make_trainer(store: TokenStore, policy: str) -> Trainer:
    settings = TrainSettings.model_validate(
        {"steps": 12, "batch_size": 2, "warmup_steps": 0, "on_divergence": policy, "dtype": "float32"}
    )
    batches = PoisonedBatches(store.stream("train"), 16, 2, 0)
    model = GPT2(GPT2Config(300, 16, 16, 2, 1, 0.1)).initialise(0)
    model.wpe.weight.register_hook(lambda gradient: gradient * float("nan") if batches.poison else gradient)
    return Trainer(model, batches, settings)


def weights(trainer: Trainer) -> list[torch.Tensor]:
    return [parameter.detach().clone() for parameter in trainer.model.parameters()]


def same(one: list[torch.Tensor], other: list[torch.Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_stopping_leaves_the_weights_of_the_step_before(store: TokenStore) -> None:
    trainer, before = make_trainer(store, "stop"), make_trainer(store, "stop")
    before.run_until(POISONED - 1)
    with pytest.raises(UserError, match=f"no longer finite at step {POISONED}: lower"):
        trainer.run_until(12)
    assert same(weights(trainer), weights(before))


def test_skipping_leaves_one_update_out_and_resumes_to_the_same_bits(
    store: TokenStore, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    trainer, resumed = make_trainer(store, "skip"), make_trainer(store, "skip")
    trainer.run_until(POISONED - 1)
    before = weights(trainer)
    trainer.run_until(POISONED)
    assert same(weights(trainer), before)
    restore(resumed, save_checkpoint(tmp_path, trainer, tokenizer, {}))
    for each in (trainer, resumed):
        each.run_until(12)
    assert same(weights(trainer), weights(resumed))
    assert not same(weights(trainer), before)
    state = trainer.optimizer.state[trainer.model.wte.weight]
    assert state["step"] == 11
    assert all(tensor.isfinite().all() for tensor in weights(trainer))


def test_rewinding_takes_other_windows_for_the_update(store: TokenStore) -> None:
    trainer = make_trainer(store, "rewind")
    trainer.run_until(POISONED - 1)
    with pytest.raises(DivergedError) as diverged:
        trainer.run_until(12)
    assert diverged.value.step == POISONED
    other = make_trainer(store, "rewind")
    other.replaced = {POISONED - 1: 1}
    other.run_until(12)
    assert all(tensor.isfinite().all() for tensor in weights(other))
