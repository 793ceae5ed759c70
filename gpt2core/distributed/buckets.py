"""Tensors that travel together, since many small messages take longer than few large ones."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor


def buckets_of(tensors: list[Tensor], most: int) -> Iterator[list[Tensor]]:
    """Neighbours of at most so many numbers together: one large tensor, or several small ones."""
    bucket, size = list[Tensor](), 0
    for tensor in tensors:
        if bucket and size + tensor.numel() > most:
            yield bucket
            bucket, size = [], 0
        bucket.append(tensor)
        size += tensor.numel()
    yield bucket


def flat(bucket: list[Tensor], multiple: int = 1) -> Tensor:
    """All numbers one behind the other, and as many zeros as make up a multiple."""
    parts = [tensor.flatten() for tensor in bucket]
    padding = -sum(map(len, parts)) % multiple
    return torch.cat([*parts, parts[0].new_zeros(padding)])


def fill(bucket: list[Tensor], numbers: Tensor) -> None:
    """What `flat` has put together, back to where it was."""
    lengths = [tensor.numel() for tensor in bucket]
    parts = torch.split(numbers[: sum(lengths)], lengths)
    torch._foreach_copy_(bucket, [part.view_as(tensor) for part, tensor in zip(parts, bucket, strict=True)])
