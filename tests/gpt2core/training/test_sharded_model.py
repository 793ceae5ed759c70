"""A model that the processes share out: the bits of one process, a part of the memory in each, and a whole checkpoint.

Also tests `gpt2core.distributed.sharded_weights`, in processes of their own.
"""

from pathlib import Path

import pytest
from pydantic import ValidationError
from several_processes import train_by

from configs.schema import TrainSettings

KINDS = {
    "adamw": {},
    "adamw, bfloat16, dropout": {"dtype": "bfloat16", "dropout": 0.1},
    "sgd": {"optimizer": "sgd", "momentum": 0.9},
    "muon, noise": {"optimizer": "muon", "noise": 0.2},
    "muon, bfloat16": {"optimizer": "muon", "dtype": "bfloat16"},
    "lora": {"trainable": "lora", "lora": {"rank": 2, "dropout": 0.3}, "dropout": 0.1},
    "lora, bfloat16": {"trainable": "lora", "lora": {"rank": 2}, "dtype": "bfloat16"},
    "masked documents": {"masked": True},
    "recomputed blocks": {"recompute_blocks": 1, "trainable": ["h.1.*", "ln_f.*"]},
    "recomputed blocks, bfloat16, dropout": {"recompute_blocks": 2, "dtype": "bfloat16", "dropout": 0.2},
    "one parameter": {"trainable": ["ln_f.weight"]},
    "the first block": {"trainable": ["h.0.*"]},
    "batches that do not divide": {"accumulate": 5},
    "memory lacks in one of them": {"lacking": "forward", "dropout": 0.1},
    "memory lacks in one of them on the way back": {"lacking": "backward", "dropout": 0.3},
}


def test_the_bits_are_those_of_one_process(tmp_path: Path) -> None:
    back = {"back to a checkpoint": {"back_to": str(tmp_path), "seed": 2}, "not back": {"seed": 2}}
    alone, three = train_by([1, 3], {name: {**kind, "shard": "model"} for name, kind in {**KINDS, **back}.items()})
    assert alone["back to a checkpoint"] == alone.pop("not back") == three.pop("not back")
    assert three == alone
    assert len(set(alone.values())) == len(alone)


def test_it_adds_exactly() -> None:
    with pytest.raises(ValidationError, match="says shard model, which adds gradients exactly, and reduce fast"):
        TrainSettings.model_validate({"shard": "model", "reduce": "fast"})
