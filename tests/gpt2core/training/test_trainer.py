"""Training: each update is what the formulas say, and everything it uses is a function of seed and step.

Also tests `gpt2core.machine.devices`.
"""

import math
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from configs.errors import UserError
from configs.schema import TrainSettings
from gpt2core.checkpoints.checkpoint import restore, save_checkpoint
from gpt2core.model.config import GPT2Config
from gpt2core.model.gpt2 import GPT2
from gpt2core.optimization.schedule import learning_rate
from gpt2core.store.token_store import TokenStore
from gpt2core.text.tokenizer import Tokenizer
from gpt2core.training.batches import Batches
from gpt2core.training.callback import Callback, History, StepMetrics, StepsDone
from gpt2core.training.trainer import Trainer

SETTINGS = TrainSettings(steps=30, batch_size=2, learning_rate=1e-2, warmup_steps=3, seed=1)


def make_trainer(store: TokenStore, settings: TrainSettings = SETTINGS, dropout: float = 0.1) -> Trainer:
    model = GPT2(GPT2Config(300, 16, 16, 2, 2, dropout)).initialise(settings.seed)
    return Trainer(model, Batches(store.stream("train"), 16, settings.batch_size, settings.seed), settings)


def metrics_of(trainer: Trainer, until: int) -> list[StepMetrics]:
    history = History()
    trainer.callbacks.append(history)
    trainer.run_until(until)
    return history.updates


def same_weights(one: GPT2, other: GPT2) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


def test_every_step_is_reported_once_with_its_learning_rate(store: TokenStore) -> None:
    seen = metrics_of(make_trainer(store), 30)
    assert [update.step for update in seen] == list(range(1, 31))
    assert [update.learning_rate for update in seen] == [learning_rate(step, SETTINGS) for step in range(30)]


def test_the_loss_falls(store: TokenStore) -> None:
    seen = metrics_of(make_trainer(store, SETTINGS.model_copy(update={"steps": 60})), 60)
    assert seen[0].loss == pytest.approx(math.log(300), abs=0.1)
    assert seen[-1].loss < seen[0].loss - 1.0


def test_stopping_anywhere_between_does_not_change_the_weights(store: TokenStore) -> None:
    straight, halting = make_trainer(store), make_trainer(store)
    straight.run_until(12)
    for step in (1, 2, 7, 12):
        halting.run_until(step)
        torch.rand(3)  # whoever draws from the global stream in between must not matter
    assert same_weights(straight.model, halting.model)


def test_a_resumed_run_ends_with_the_same_bits(store: TokenStore, tokenizer: Tokenizer, tmp_path: Path) -> None:
    undisturbed, killed, resumed = make_trainer(store), make_trainer(store), make_trainer(store)
    expected = metrics_of(undisturbed, 20)
    killed.run_until(9)
    restore(resumed, save_checkpoint(tmp_path, killed, tokenizer, {}))
    assert metrics_of(resumed, 20) == expected[9:]
    assert same_weights(undisturbed.model, resumed.model)
    for one, other in zip(undisturbed.model.parameters(), resumed.model.parameters(), strict=True):
        before, after = undisturbed.optimizer.state[one], resumed.optimizer.state[other]
        assert all(torch.equal(before[key], after[key]) for key in ("step", "exp_avg", "exp_avg_sq"))


def test_accumulated_batches_are_averaged_like_one_large_batch(store: TokenStore) -> None:
    settings = SETTINGS.model_copy(update={"accumulate": 3, "steps": 1})
    trainer = make_trainer(store, settings, dropout=0.0)
    large = GPT2(trainer.model.config).initialise(settings.seed)
    parts = [trainer.batches.at(index) for index in range(3)]
    inputs, targets = (torch.cat([part[i] for part in parts]) for i in (0, 1))
    loss = F.cross_entropy(large(inputs).flatten(0, 1), targets.flatten())
    loss.backward()
    norm = math.sqrt(sum(float((p.grad**2).sum()) for p in large.parameters() if p.grad is not None))
    (update,) = metrics_of(trainer, 1)
    assert update.loss == pytest.approx(loss.item(), rel=1e-6)
    assert update.gradient_norm == pytest.approx(norm, rel=1e-5)


def test_an_update_is_clipped_adamw_with_decay_on_matrices_only(store: TokenStore) -> None:
    trainer = make_trainer(store, dropout=0.0)
    before = {name: p.detach().clone() for name, p in trainer.model.named_parameters()}
    twin = GPT2(trainer.model.config).initialise(SETTINGS.seed)
    inputs, targets = trainer.batches.at(0)
    twin.loss(inputs, targets).backward()
    norm = torch.cat([p.grad.flatten() for p in twin.parameters() if p.grad is not None]).norm()
    scale = min(1.0, SETTINGS.clip / (float(norm) + 1e-6))
    trainer.run_until(1)
    rate = learning_rate(0, SETTINGS)
    for (name, after), (_, other) in zip(trainer.model.named_parameters(), twin.named_parameters(), strict=True):
        assert other.grad is not None
        gradient = other.grad * scale
        decay = SETTINGS.weight_decay if after.ndim >= 2 else 0.0
        # First step of Adam: both moments, corrected for their bias, are the gradient and its square.
        expected = before[name] * (1 - rate * decay) - rate * gradient / (gradient.abs() + 1e-8)
        torch.testing.assert_close(after.detach(), expected, rtol=1e-4, atol=1e-6, msg=name)


def test_another_seed_trains_on_other_windows(store: TokenStore) -> None:
    one, other = make_trainer(store), make_trainer(store, SETTINGS.model_copy(update={"seed": 2}))
    assert not torch.equal(one.batches.at(0)[0], other.batches.at(0)[0])


class _StopAtOnce(Callback):
    def __init__(self, trainer: Trainer) -> None:
        self._trainer = trainer

    def on_steps_done(self, _: StepsDone) -> None:
        self._trainer.request_stop()


def test_a_request_to_stop_ends_after_the_current_update(store: TokenStore) -> None:
    trainer = make_trainer(store)
    trainer.callbacks.append(_StopAtOnce(trainer))
    trainer.run_until(30)
    assert trainer.step == 10


def test_a_loss_that_is_not_finite_stops_with_a_sentence(store: TokenStore) -> None:
    trainer = make_trainer(store, SETTINGS.model_copy(update={"learning_rate": 1e30, "warmup_steps": 0}))
    with pytest.raises(UserError, match=r"no longer finite at step \d+: lower train.learning_rate"):
        trainer.run_until(30)
