"""Tensors that travel together, since many small messages take longer than few large ones."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

LARGE = 1_000_000
"""Numbers from which on a tensor travels alone, from and to its own memory: copying would take longer than a message more."""


def buckets_of(tensors: list[Tensor], most: int) -> Iterator[list[Tensor]]:
    """A large tensor alone, or neighbours that are small, of at most so many numbers together."""
    bucket, size = list[Tensor](), 0
    for tensor in tensors:
        alone = tensor.numel() >= LARGE
        if bucket and (alone or size + tensor.numel() > most):
            yield bucket
            bucket, size = [], 0
        bucket.append(tensor)
        size += most if alone else tensor.numel()
    yield bucket


def itself(bucket: list[Tensor], multiple: int = 1) -> Tensor | None:
    """The memory of a tensor that is alone in its bucket and that so many processes can share, as [numbers]."""
    (tensor, *others) = bucket
    return None if others or tensor.numel() % multiple or not tensor.is_contiguous() else tensor.view(-1)


def flat(bucket: list[Tensor], multiple: int = 1) -> Tensor:
    """All numbers one behind the other, and as many zeros as make up a multiple; the tensor itself where it is alone."""
    if (own := itself(bucket, multiple)) is not None:
        return own
    parts = [tensor.flatten() for tensor in bucket]
    padding = -sum(map(len, parts)) % multiple
    return torch.cat([*parts, parts[0].new_zeros(padding)])


def fill(bucket: list[Tensor], numbers: Tensor) -> None:
    """What `flat` has put together, back to where it was."""
    if numbers.untyped_storage()._cdata == bucket[0].untyped_storage()._cdata:
        return
    lengths = [tensor.numel() for tensor in bucket]
    parts = torch.split(numbers[: sum(lengths)], lengths)
    torch._foreach_copy_(bucket, [part.view_as(tensor) for part, tensor in zip(parts, bucket, strict=True)])
