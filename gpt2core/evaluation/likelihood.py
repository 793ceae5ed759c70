"""How likely a model finds given continuations of given contexts, in batches of different lengths."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import torch

from gpt2core.evaluation.scoring import score_windows
from gpt2core.evaluation.windows import Windows
from gpt2core.model.gpt2 import GPT2
from gpt2core.model.linear_cross_entropy import IGNORED
from gpt2core.text.tokenizer import Tokenizer

Ids = Sequence[int]
BATCH = 8


@dataclass(frozen=True)
class Question:
    """Ids to be scored after a context; the context must not be empty."""

    context: Ids
    target: Ids


@dataclass(frozen=True)
class Likelihood:
    """Loss of the whole target in nats, and whether each of its tokens was the likeliest."""

    nats: float
    greedy: bool


def score_questions(model: GPT2, pairs: Iterable[Question]) -> Iterator[Likelihood]:
    """Scores in order; of a text longer than the model's context the end counts, as in lm-evaluation-harness."""
    for batch in _batches(pairs):
        (scores,) = score_windows(model, [_side_by_side(batch, model.config.n_ctx)])
        for row in range(len(batch)):
            mine = scores.positions == row
            yield Likelihood(scores.nats[mine].sum().item(), bool(scores.right[mine].all()))


def _batches(pairs: Iterable[Question]) -> Iterator[list[Question]]:
    iterator = iter(pairs)
    while batch := list(islice(iterator, BATCH)):
        yield batch


def question_of(tokenizer: Tokenizer, context: str, target: str) -> Question:
    """The ids of a text cut where `target` begins: both are encoded together, and spaces at the cut belong to the target.

    An empty context stands for the beginning of a document.
    """
    kept = context.rstrip()
    whole, before = tokenizer.encode(context + target, special=False), tokenizer.encode(kept, special=False)
    return Question(before or [tokenizer.end_of_text], whole[len(before) :])


def _side_by_side(batch: Sequence[Question], n_ctx: int) -> Windows:
    """Rows of different lengths as one batch; `positions` holds the number of the row."""
    rows = [[*pair.context, *pair.target][-n_ctx - 1 :] for pair in batch]
    longest = max(map(len, rows)) - 1
    inputs = torch.zeros((len(rows), longest), dtype=torch.int64)
    targets = torch.full((len(rows), longest), IGNORED)
    for number, (row, pair) in enumerate(zip(rows, batch, strict=True)):
        inputs[number, : len(row) - 1] = torch.tensor(row[:-1])
        scored = min(len(pair.target), len(row) - 1)
        targets[number, len(row) - 1 - scored : len(row) - 1] = torch.tensor(row[len(row) - scored :])
    return Windows(inputs, targets, torch.arange(len(rows))[:, None].expand_as(inputs))
