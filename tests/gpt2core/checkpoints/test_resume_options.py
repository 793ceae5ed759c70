"""Whatever is switched on, a run that was stopped and restored ends with the same bits."""

from pathlib import Path

import pytest
import torch

from configs.schema import TrainSettings
from gpt2core.checkpoints.checkpoint import restore, save_checkpoint
from gpt2core.model.config import GPT2Config
from gpt2core.model.gpt2 import GPT2
from gpt2core.store.token_store import TokenStore
from gpt2core.text.tokenizer import Tokenizer
from gpt2core.training.batches import Batches
from gpt2core.training.callback import History, StepMetrics
from gpt2core.training.trainer import Trainer

OPTIONS = [
    {"optimizer": "sgd"},
    {"optimizer": "sgd", "momentum": 0.0},
    {"optimizer": "muon"},
    {"optimizer": "muon", "dtype": "bfloat16", "accumulate": 2},
    {"trainable": "transformer"},
    {"trainable": "transformer", "optimizer": "sgd", "dtype": "bfloat16"},
    {"trainable": ["wte.*", "h.1.*"], "optimizer": "muon"},
    {"trainable": "lora", "lora": {"rank": 2, "dropout": 0.2}},
    {"trainable": "lora", "lora": {"rank": 2, "targets": "c_attn"}, "dtype": "bfloat16", "optimizer": "muon"},
    {"trainable": "lora", "recompute_blocks": 2, "lora": {"rank": 3, "dropout": 0.2}},
    {"trainable": "lora", "lora": {"rank": 2, "dropout": 0.3}, "optimizer": "muon", "accumulate": 3, "noise": 0.2},
    {"trainable": ["h.0.*", "wpe.*"], "optimizer": "sgd", "recompute_blocks": 1, "noise": 0.5, "order": "random"},
    {"noise": 0.2, "accumulate": 2},
    {"noise": 0.1, "order": "random", "schedule": "wsd"},
]


def make_trainer(store: TokenStore, options: dict) -> Trainer:
    settings = TrainSettings.model_validate({"steps": 8, "batch_size": 2, "warmup_steps": 2, "learning_rate": 1e-2, **options})
    model = GPT2(GPT2Config(300, 16, 64, 2, 2, dropout=0.1)).initialise(0)
    return Trainer(model, Batches(store.stream("train"), 16, 2, 0, settings.order), settings)


def metrics_of(trainer: Trainer, until: int) -> list[StepMetrics]:
    history = History()
    trainer.callbacks.append(history)
    trainer.run_until(until)
    return history.updates


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_a_restored_run_ends_with_the_same_bits(store: TokenStore, tokenizer: Tokenizer, tmp_path: Path, options: dict) -> None:
    undisturbed, killed, restored = (make_trainer(store, options) for _ in range(3))
    expected = metrics_of(undisturbed, 6)
    killed.run_until(3)
    restore(restored, save_checkpoint(tmp_path, killed, tokenizer, {}))
    assert metrics_of(restored, 6) == expected[3:]
    assert all(torch.equal(a, b) for a, b in zip(undisturbed.model.parameters(), restored.model.parameters(), strict=True))
    before, after = undisturbed.optimizer.tensors(), restored.optimizer.tensors()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert expected[0].loss != expected[-1].loss
