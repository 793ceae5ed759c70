"""The gradient of a batch on CUDA, recorded once and then repeated by the device alone.

A thousand short kernels make an update; a host that starts each of them is slower than the device with all but large batches.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Compute = Callable[..., Tensor]
"""Adds a batch's gradient to that of the parameters, from tensors on the device, and returns the loss []."""


class RecordedGradient:
    """Computes gradients of `parameters`, batch after batch of one size; with the same bits as without it.

    The batches of a first update are computed as ever, which loads kernels and makes workspaces; those of the second are
    recorded, one that is the first of its update apart from one that is added to others; later ones are repeated.
    """

    def __init__(self, parameters: list[Tensor]) -> None:
        self._parameters = parameters
        self._stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        self._recordings: dict[bool, _Recording] = {}
        self._updates = 0

    def forget(self) -> None:
        """Begin anew, and give back what the recordings hold."""
        self._recordings, self._updates = {}, 0
        torch.cuda.empty_cache()

    def add(self, compute: Compute, is_first: bool, *batch: Tensor) -> Tensor:
        """The loss of a batch, whose gradient takes the place of that of the batches before if `is_first`."""
        self._updates += is_first
        if self._updates == 1:
            return self._aside(compute, batch)
        if is_first not in self._recordings:
            self._recordings[is_first] = _Recording(compute, self._parameters, self._stream, batch)
        return self._recordings[is_first].repeat(batch)

    def _aside(self, compute: Compute, batch: tuple[Tensor, ...]) -> Tensor:
        """Compute on the stream that recordings are made on, as PyTorch's gradients want it."""
        current = torch.cuda.current_stream()
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            loss = compute(*batch)
        current.wait_stream(self._stream)
        return loss


class _Recording:
    def __init__(
        self, compute: Compute, parameters: list[Tensor], stream: torch.cuda.Stream, batch: tuple[Tensor, ...]
    ) -> None:
        self._batch = [part.clone() for part in batch]
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph, stream=stream, capture_error_mode="thread_local"):  # a checkpoint may be copied now
            self._loss = compute(*self._batch)
        self._gradients = [(parameter, parameter.grad) for parameter in parameters]

    def repeat(self, batch: tuple[Tensor, ...]) -> Tensor:
        """The loss [] of a batch, good until the next; the parameters have their gradients."""
        for own, given in zip(self._batch, batch, strict=True):
            own.copy_(given)
        self._graph.replay()
        for parameter, gradient in self._gradients:
            parameter.grad = gradient
        return self._loss
