"""Noise on what the model reads: some input tokens become random ones, so that it learns not to trust each of them."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from configs.schema import TrainSettings
from gpt2core.store.shuffle import mix


def add_noise(inputs: Tensor, settings: TrainSettings, index: int, n_vocab: int) -> Tensor:
    """Inputs of batch `index`, int64 [B, T], each replaced with probability `train.noise` by a uniformly random id.

    What happens to a token is a function of the seed, the number of its window over the whole training and its place in it,
    so it does not depend on how windows are put into batches. As --noise of nshepperd/gpt-2's train.py.
    """
    if not settings.noise:
        return inputs
    first = np.uint64(index * inputs.numel())
    places = np.arange(inputs.numel(), dtype=np.uint64).reshape(inputs.shape) + first
    words = mix(places + mix(mix(np.uint64(settings.seed))))  # twice: once would give the words that draw the windows
    replaced = torch.from_numpy(words < np.uint64(round(settings.noise * 2**64)))
    drawn = torch.from_numpy((mix(words) % np.uint64(n_vocab)).astype(np.int64))
    return torch.where(replaced, drawn, inputs)
