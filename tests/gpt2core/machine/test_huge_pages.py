"""Memory in huge pages behaves like any other."""

import psutil
import pytest
import torch

from gpt2core.machine import allocator


@pytest.mark.parametrize("shape", [(3, 5), (1 << 20,), (7, 1001, 211)])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.bfloat16, torch.float32])
def test_a_tensor_is_as_asked_for_and_holds_what_is_written(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    found, other = allocator.empty(shape, dtype), allocator.empty(shape, dtype)
    expected = torch.arange(found.numel()).view(shape).to(dtype)
    found.copy_(expected)
    other.zero_()
    assert found.shape == shape and found.dtype is dtype and found.is_contiguous()
    assert torch.equal(found, expected)


def test_a_part_keeps_the_pages_and_the_last_one_gives_them_back() -> None:
    process = psutil.Process()
    whole = allocator.empty((1 << 26,), torch.uint8)
    before = process.memory_info().rss
    whole.fill_(7)
    assert whole.data_ptr() % allocator.SIZE == 0
    part = whole[-10:]
    del whole
    assert part.tolist() == [7] * 10
    assert process.memory_info().rss - before > 6e7
    del part
    assert process.memory_info().rss - before < 1e7
