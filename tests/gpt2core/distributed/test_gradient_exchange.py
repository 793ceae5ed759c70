"""Weights and moments after some updates by 1 and 4 processes are the same bits, whatever is trained how.

Also tests `gpt2core.distributed.gradient_exchange` and `gpt2core.distributed.leaving_buckets`, in processes of their own.
"""

import pytest
from several_processes import train_by

pytestmark = pytest.mark.kernels

CASES = {
    "adamw": {},
    "adamw, bfloat16, dropout": {"dtype": "bfloat16", "dropout": 0.1},
    "sgd": {"optimizer": "sgd"},
    "muon, noise": {"optimizer": "muon", "noise": 0.2},
    "muon, bfloat16": {"optimizer": "muon", "dtype": "bfloat16"},
    "lora": {"trainable": "lora", "lora": {"rank": 2, "dropout": 0.3}, "dropout": 0.1},
    "masked documents": {"masked": True},
    "recomputed blocks": {"recompute_blocks": 1, "trainable": ["h.1.*", "ln_f.*"]},
    "batches that do not divide": {"accumulate": 5},
    "batches cut from the second update on": {"cuts": 2},
    "memory lacks in one of them": {"lacking": "backward", "seed": 1},
}


@pytest.mark.slow
def test_eight_processes_make_the_bits_of_one() -> None:
    cases = {name: {"accumulate": 8, **CASES[name]} for name in ("adamw, bfloat16, dropout", "muon, noise", "lora")}
    cases["batches that do not divide"] = {"accumulate": 11}
    alone, eight = train_by([1, 8], cases)
    assert eight == alone


def test_several_processes_make_the_bits_of_one() -> None:
    alone, four = train_by([1, 4], CASES)
    assert four == alone
    assert len(set(alone.values())) == len(CASES)
