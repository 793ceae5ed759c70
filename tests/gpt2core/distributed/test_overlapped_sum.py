"""The back-end's sum is the same sum: bit for bit where two gradients are added, whose order is of no matter.

Also tests `gpt2core.distributed.buckets`.
"""

import json

import pytest
import torch
from several_processes import train_by

from gpt2core.distributed.buckets import buckets_of, fill, flat

pytestmark = pytest.mark.kernels

TWO = {"accumulate": 2}
KINDS = {
    "adamw": TWO,
    "bfloat16, dropout": {**TWO, "dtype": "bfloat16", "dropout": 0.1},
    "muon": {**TWO, "optimizer": "muon"},
    "lora": {**TWO, "trainable": "lora", "lora": {"rank": 2}},
    "one of them makes nothing": {"accumulate": 1},
    "recomputed blocks": {**TWO, "recompute_blocks": 1, "trainable": ["h.1.*", "ln_f.*"]},
}
MORE = {"accumulate": 5, "reduce": "fast"}
CASES = {**KINDS, **{f"fast, {name}": {**case, "reduce": "fast"} for name, case in KINDS.items()}}


def test_the_sum_of_two_gradients_is_exact_and_that_of_more_is_close() -> None:
    more = {"more": MORE, "more, bfloat16": {**MORE, "dtype": "bfloat16"}}
    alone, two = train_by([1, 2], {**CASES, **more})
    assert {name: two[name] for name in CASES} == {name: alone[name] for name in CASES}
    for name in KINDS:
        assert two[f"fast, {name}"] == two[name]
    for name in more:
        assert json.loads(two[name]) == pytest.approx(json.loads(alone[name]), rel=1e-3)


def test_what_travels_together_comes_back_to_its_place() -> None:
    tensors = [torch.full((size, 2), float(size)) for size in (3, 40, 1, 2)]
    buckets = list(buckets_of(tensors, 8))
    assert [len(bucket) for bucket in buckets] == [1, 1, 2]
    together = flat(buckets[2], multiple=5)
    assert len(together) == 10
    fill(buckets[2], together + 1)
    assert [float(tensor.mean()) for tensor in tensors] == [3, 40, 2, 3]


def test_a_large_tensor_travels_alone_from_and_to_its_own_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gpt2core.distributed.buckets.LARGE", 6)
    tensors = [torch.ones(2), torch.ones(2, 3), torch.ones(2), torch.ones(3, 2).mT, torch.ones(7)]
    buckets = list(buckets_of(tensors, 20))
    assert [len(bucket) for bucket in buckets] == [1] * 5
    assert flat(buckets[1], 2).data_ptr() == tensors[1].data_ptr()
    for bucket in (buckets[3], buckets[4]):  # numbers in another order, and too many for two processes
        together = flat(bucket, 2)
        assert together.data_ptr() != bucket[0].data_ptr()
        fill(bucket, together + 1)
        assert (bucket[0] == 2).all()
