"""Windows of held-out text for scoring: side by side, or overlapping so that each token is scored with more context."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gpt2core.model.linear_cross_entropy import IGNORED
from gpt2core.store.token_store import TokenStream


@dataclass(frozen=True)
class Windows:
    """A batch of windows. Shapes: B windows, T n_ctx."""

    inputs: Tensor
    """int64 [B, T], 0 behind the end of the stream."""
    targets: Tensor
    """int64 [B, T], the token after each input; -100 where it is not scored."""
    positions: Tensor
    """int64 [B, T], the place of each target in the stream."""

    def in_halves(self) -> list[Windows]:
        """The same windows in two batches."""
        halves = [tensor.tensor_split(2) for tensor in (self.inputs, self.targets, self.positions)]
        return [Windows(*half) for half in zip(*halves, strict=True)]


def held_out_windows(
    stream: TokenStream, n_ctx: int, batch_size: int, max_windows: int | None = None, stride: int | None = None
) -> Iterator[Windows]:
    """Windows that begin every `stride` tokens (n_ctx unless given), at most `max_windows` of them, spread evenly.

    With all windows every token but the first is scored exactly once: by the first window that reaches it, so with at least
    n_ctx - stride + 1 tokens before it, where there are so many. See Hugging Face, Perplexity of fixed-length models.
    """
    stride = min(stride or n_ctx, n_ctx)
    total = 1 + max(0, -(-(len(stream) - 1 - n_ctx) // stride)) if len(stream) > 1 else 0
    count = min(max_windows or total, total)
    starts = np.arange(count, dtype=np.int64) * total // count * stride
    for first in range(0, count, batch_size):
        yield _batch(stream, n_ctx, stride, starts[first : first + batch_size])


def _batch(stream: TokenStream, n_ctx: int, stride: int, starts: np.ndarray[Any, np.dtype[np.int64]]) -> Windows:
    inputs = np.zeros((len(starts), n_ctx), dtype=np.int64)  # [B, T]
    targets = np.full((len(starts), n_ctx), IGNORED, dtype=np.int64)  # [B, T]
    for row, start in enumerate(starts.tolist()):
        length = min(n_ctx, len(stream) - 1 - start)
        stream.read(start, length, inputs[row])
        stream.read(start + 1, length, targets[row])
        if start:
            targets[row, : n_ctx - stride] = IGNORED  # the window before has scored them
    positions = starts[:, None] + np.arange(1, n_ctx + 1)
    return Windows(torch.from_numpy(inputs), torch.from_numpy(targets), torch.from_numpy(positions))
