"""Optimizer state that is shared out: the same bits, a part of the memory in each process, and a whole checkpoint."""

import torch
from several_processes import train_by

from gpt2core.distributed.shards import owners

KINDS = {
    "adamw": {},
    "adamw, bfloat16, dropout": {"dtype": "bfloat16", "dropout": 0.1},
    "sgd": {"optimizer": "sgd", "momentum": 0.9},
    "sgd without momentum": {"optimizer": "sgd", "momentum": 0.0},
    "muon": {"optimizer": "muon"},
    "lora": {"trainable": "lora", "lora": {"rank": 2}},
    "one parameter": {"trainable": ["ln_f.weight"]},
}


def test_the_bits_are_those_of_a_state_that_is_not_shared_out() -> None:
    alone, three = train_by([1, 3], {name: {**kind, "shard": "optimizer"} for name, kind in KINDS.items()})
    assert three == alone
    assert len(set(alone.values())) == len(KINDS)


def test_the_largest_parameters_are_shared_out_first() -> None:
    parameters = [torch.empty(size) for size in (2, 9, 4, 3, 1)]
    found = owners(parameters, 2)
    assert [found[parameter] for parameter in parameters] == [1, 0, 1, 1, 0]
