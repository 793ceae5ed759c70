"""A step of generation on CUDA, recorded once: the device then runs its hundreds of short kernels without the host between."""

from __future__ import annotations

import torch
from torch import Tensor

from gpt2core.model.gpt2 import GPT2
from gpt2core.model.key_value_cache import KeyValueCache, WholeCache


class RecordedStep:
    """Logits after one more token of each row in `cache`, and for this cache alone; the model must be in evaluation mode."""

    def __init__(self, model: GPT2, cache: KeyValueCache) -> None:
        self.cache = cache
        self._model, self._whole = model, WholeCache(cache)
        self._tokens = torch.zeros(len(cache.lengths), 1, dtype=torch.int64, device=cache.keys.device)
        self._graph = torch.cuda.CUDAGraph()
        aside = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            self._compute()  # loads kernels and makes workspaces, which cannot be recorded
        torch.cuda.current_stream().wait_stream(aside)
        with torch.cuda.graph(self._graph, capture_error_mode="thread_local"):  # other threads may go on using the device
            self._logits = self._compute()

    def logits(self, tokens: Tensor) -> Tensor:
        """float32 [B, V] after tokens int64 [B, 1] of the host, which enter the cache; good until the next step."""
        self._tokens.copy_(tokens)
        self._whole.places.copy_(self.cache.lengths)
        self._graph.replay()
        self.cache.advance(1)
        return self._logits

    def _compute(self) -> Tensor:
        return self._model.head(self._model.hidden(self._tokens, self._whole)[:, -1])
