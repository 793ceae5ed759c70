"""Which tokens of a held-out stream are scored, and with how much before them."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gpt2core.evaluation.windows import held_out_windows
from gpt2core.store.token_store import TokenStream


def stream_of(length: int) -> TokenStream:
    """Each token is its own place."""
    return TokenStream([np.arange(length, dtype=np.int32)])


@given(length=st.integers(0, 100), n_ctx=st.integers(1, 9), batch_size=st.integers(1, 5), stride=st.integers(1, 9))
def test_every_token_but_the_first_is_scored_once_whatever_the_stride(
    length: int, n_ctx: int, batch_size: int, stride: int
) -> None:
    scored = []
    for windows in held_out_windows(stream_of(length), n_ctx, batch_size, stride=stride):
        assert windows.inputs.shape == windows.targets.shape == windows.positions.shape
        assert len(windows.inputs) <= batch_size
        real = windows.targets != -100
        assert torch.equal(windows.inputs[real] + 1, windows.targets[real])
        assert torch.equal(windows.positions[real], windows.targets[real])
        before = torch.arange(1, n_ctx + 1).expand_as(real)[real]
        longest = torch.minimum(windows.positions[real], torch.tensor(n_ctx - min(stride, n_ctx) + 1))
        assert bool((before >= longest).all())
        scored += windows.targets[real].tolist()
    assert scored == list(range(1, length))


def test_fewer_windows_are_spread_evenly() -> None:
    batches = list(held_out_windows(stream_of(1001), 10, 3, max_windows=7))
    assert [len(windows.inputs) for windows in batches] == [3, 3, 1]
    assert [int(row[0]) for windows in batches for row in windows.inputs] == [0, 140, 280, 420, 570, 710, 850]


@pytest.mark.parametrize("stride", [8, 3])
def test_the_batch_size_does_not_change_what_is_scored(stride: int) -> None:
    whole, single = (
        torch.cat([windows.targets for windows in held_out_windows(stream_of(555), 8, size, 20, stride)]) for size in (64, 1)
    )
    assert torch.equal(whole, single)
