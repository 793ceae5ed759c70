"""What an evaluation takes beside the weights, gradients and moments that stand meanwhile, foreseen as training itself is.

It is bounded by what training takes where that can be: samples are written so many at once that their keys and values are no
more than the activations that an update keeps. Where it cannot, it counts.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from configs.evaluation import EvaluateSettings
from configs.schema import TrainSettings
from gpt2core.evaluation.likelihood import BATCH
from gpt2core.evaluation.scoring import score_targets
from gpt2core.lens.lens import run_blocks
from gpt2core.machine.dtypes import choose_dtype
from gpt2core.memory.dry_run import MemoryLedger, by_rows
from gpt2core.memory.workload import Workload
from gpt2core.model.config import GPT2Config
from gpt2core.model.gpt2 import GPT2
from gpt2core.training.working_copy import WorkingCopy

SAMPLES = 8
"""Samples written at once, where memory does not ask for fewer."""


def samples_at_once(config: GPT2Config, train: TrainSettings, evaluate: EvaluateSettings) -> int:
    """So many samples that their keys and values (8 bytes a position and width) are no more than what an update keeps.

    That is at least 16 bytes in a block that keeps its activations, and 2 in one that is recomputed. One sample is always
    written.
    """
    kept = 16 * config.n_layer - 14 * min(train.recompute_blocks, config.n_layer)
    fitting = train.batch_size * config.n_ctx * kept // (8 * config.n_layer * _positions(config, evaluate))
    return max(1, min(SAMPLES, len(evaluate.prompts), fitting))


def evaluation_bytes(work: Workload) -> int:
    """The most that tensors of an evaluation take beside what stands, 0 where the work has none; seconds for a large model."""
    if work.evaluation is None:
        return 0
    config, device, train, evaluate = work.config, work.device, work.settings, work.evaluation
    positions, dtype = _positions(config, evaluate), choose_dtype(train.dtype, device, config.n_embd)
    caches = 8 * config.n_layer * config.n_embd * positions * samples_at_once(config, train, evaluate)
    stages = [
        by_rows(
            lambda rows: _scoring(config, device, dtype, rows, config.n_ctx, work.mask_documents),
            train.batch_size,
            config.n_ctx,
        ),
        caches + _scoring(config, device, torch.float32, 1, positions, False),  # the longest prompt is read at once
    ]
    if evaluate.canaries:
        stages.append(_scoring(config, device, torch.float32, BATCH, _longest(evaluate.canaries, config), False))
    if evaluate.lens:
        prompt = _longest(evaluate.lens_prompts or evaluate.prompts[:1] or [""], config)
        stages.append(_lens(config, device, min(config.n_ctx, prompt + evaluate.lens_tokens), evaluate.lens_tokens))
    return max(stages)


def _positions(config: GPT2Config, evaluate: EvaluateSettings) -> int:
    """Of the longest sample, at most."""
    return min(config.n_ctx, _longest(evaluate.prompts or [""], config) + evaluate.max_new_tokens)


def _longest(texts: list[str], config: GPT2Config) -> int:
    """Tokens of the longest text, at most: a token stands for at least one byte."""
    return min(config.n_ctx, max(1, *(len(text.encode()) for text in texts)))


@lru_cache(maxsize=64)
def _scoring(config: GPT2Config, device: torch.device, dtype: torch.dtype, rows: int, positions: int, masked: bool) -> int:
    def score(model: GPT2) -> object:
        tokens = torch.empty((rows, positions), dtype=torch.int64)
        model.separator = 0 if masked else None
        hidden = model.hidden(tokens, mask=model.mask_for(tokens)).flatten(0, 1).clone()  # those that are scored: all
        return score_targets(hidden, model.wte.weight, tokens.flatten())

    with torch.no_grad():
        return _peak_of(score, config, device, dtype)


@lru_cache(maxsize=64)
def _lens(config: GPT2Config, device: torch.device, positions: int, new: int) -> int:
    """The states of all layers and their logits, and the gradient of a probability by the text."""

    def read(model: GPT2) -> Tensor:
        embeddings = torch.empty((positions, config.n_embd), requires_grad=True)
        return torch.autograd.grad(run_blocks(model, embeddings).sum(), embeddings)[0]

    layers = config.n_layer + 1
    states, logits = 2 * layers * positions * config.n_embd, 3 * max(layers, new) * config.n_vocab
    return 4 * (states + logits) + _peak_of(read, config, device, torch.float32)


def _peak_of(do: Callable[[GPT2], object], config: GPT2Config, device: torch.device, dtype: torch.dtype) -> int:
    """The most that `do` takes beside the model's weights, on tensors without data."""
    with FakeTensorMode(), MemoryLedger() as ledger, device:
        model = WorkingCopy(GPT2(config), dtype).model.eval()
        before = ledger.peak = ledger.alive
        do(model)
        return int(ledger.peak - before)
