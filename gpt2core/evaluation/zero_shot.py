"""The GPT-2 paper's tests without training, on files that the user has: how they are read, asked and counted.

lambada                       JSON lines with "text", or a passage a line: is the last word guessed?
hellaswag                     JSON lines of HellaSwag: which of four endings is likeliest?
cbt                           a file of the Children's Book Test: which of ten words stands in the gap?
wikitext2 wikitext103 ptb enwik8 text8      plain text: perplexity by token and by word, bits by byte and by character

Prompts and counts are those of lm-evaluation-harness where it has the task.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from configs.errors import UserError
from gpt2core.evaluation.likelihood import Likelihood, Question, question_of, score_questions
from gpt2core.model.gpt2 import GPT2
from gpt2core.text.tokenizer import Tokenizer

TaskFigures = dict[str, float]
Scorer = Callable[[GPT2, Tokenizer, Path], tuple[int, TaskFigures]]


@dataclass(frozen=True)
class TaskResult:
    """Figures of one task over so many items."""

    task: str
    file: str
    items: int
    figures: TaskFigures


def run_task(model: GPT2, tokenizer: Tokenizer, task: str, file: Path) -> TaskResult:
    """Score a file; raises UserError for an unknown task, or a file that is not of the task's form."""
    if task not in TASKS:
        raise UserError(f"There is no task '{task}': known are {', '.join(TASKS)}.")
    if not file.is_file():
        raise UserError(f"The file {file} of task {task} does not exist: nothing is fetched, give a file that you have.")
    try:
        items, figures = TASKS[task](model, tokenizer, file)
    except (ValueError, KeyError, TypeError, IndexError) as error:
        reason = f"{type(error).__name__}: {str(error)[:80]}"
        raise UserError(f"{file} does not have the form of {task} ({reason}): see gpt2flow evaluate --help.") from error
    return TaskResult(task, str(file), items, figures)


def _lambada(model: GPT2, tokenizer: Tokenizer, file: Path) -> tuple[int, TaskFigures]:
    """The last word as a whole, and OpenAI's count: the last token alone."""
    texts = [row["text"] if isinstance(row, dict) else row for row in _rows(file)]
    words = [question_of(tokenizer, *_at_last_space(text)) for text in texts]
    by_word = list(score_questions(model, words))
    last = [Question([*pair.context, *pair.target[:-1]], pair.target[-1:]) for pair in words]
    by_token = list(score_questions(model, last))
    return len(texts), {
        "accuracy": _share(by_word),
        "perplexity": _perplexity(by_word),
        "last_token_accuracy": _share(by_token),
        "last_token_perplexity": _perplexity(by_token),
    }


def _at_last_space(text: str) -> tuple[str, str]:
    context, _, word = text.rpartition(" ")
    return context, f" {word}"


def _hellaswag(model: GPT2, tokenizer: Tokenizer, file: Path) -> tuple[int, TaskFigures]:
    """acc takes the likeliest ending, acc_norm the one with the least loss for each of its characters."""
    plain, normalised = [], []
    rows = list(_rows(file))
    for row in rows:
        context = _without_marks(f"{row['activity_label']}: {row['ctx_a']} {row['ctx_b'].capitalize()}")
        endings = [_without_marks(ending) for ending in row["endings"]]
        pairs = [question_of(tokenizer, context, f" {ending}") for ending in endings]
        nats = np.array([score.nats for score in score_questions(model, pairs)])
        lengths = np.array([len(ending) for ending in endings])
        plain.append(int(nats.argmin()) == int(row["label"]))
        normalised.append(int((nats / lengths).argmin()) == int(row["label"]))
    return len(rows), {"acc": float(np.mean(plain)), "acc_norm": float(np.mean(normalised))}


def _without_marks(text: str) -> str:
    """WikiHow's "[header]" marks are taken out, its "[title]" becomes a full stop."""
    return re.sub(r"\[.*?\]", "", text.strip().replace(" [title]", ". ")).replace("  ", " ")


def _cbt(model: GPT2, tokenizer: Tokenizer, file: Path) -> tuple[int, TaskFigures]:
    """The word that makes itself and the rest of the sentence likeliest, as in the GPT-2 paper, section 3.2."""
    right = []
    for story, query, answer, words in _cbt_items(file):
        before, _, after = query.partition("XXXXX")
        context = f"{story} {before}".rstrip()
        pairs = [question_of(tokenizer, context, f" {word}{after}") for word in words]
        nats = [score.nats for score in score_questions(model, pairs)]
        right.append(words[nats.index(min(nats))] == answer)
    return len(right), {"accuracy": float(np.mean(right))}


def _cbt_items(file: Path) -> Iterator[tuple[str, str, str, list[str]]]:
    """Story, sentence with XXXXX, answer, ten words; a line 21 in the file is `sentence TAB answer TAB TAB a|b|c`."""
    story: list[str] = []
    lines = [line for line in _text(file).splitlines() if line.strip()]
    if not any(line.startswith("21 ") for line in lines):
        raise ValueError("it has no line 21 with a question")
    for line in lines:
        number, _, rest = line.partition(" ")
        if number != "21":
            story = [rest] if number == "1" else [*story, rest]
            continue
        query, answer, *_, words = rest.split("\t")
        yield " ".join(story), query, answer, words.split("|")


def _plain_text(model: GPT2, tokenizer: Tokenizer, file: Path) -> tuple[int, TaskFigures]:
    """Every token once, windows side by side; the first follows the end of text and the last window is filled from before."""
    text = _text(file)
    ids = [tokenizer.end_of_text, *tokenizer.encode_ordinary([text])[0].tolist()]
    n_ctx, count = model.config.n_ctx, len(ids) - 1
    pairs = (
        Question(ids[max(0, min(first + n_ctx, count) - n_ctx) : first + 1], ids[first + 1 : first + 1 + n_ctx])
        for first in range(0, count, n_ctx)
    )
    nats = sum(score.nats for score in score_questions(model, pairs))
    return count, {
        "token_perplexity": _exp(nats / count),
        "word_perplexity": _exp(nats / len(re.split(r"\s+", text))),  # the harness counts empty ends as words, too
        "bits_per_byte": nats / math.log(2) / len(text.encode()),
        "bits_per_character": nats / math.log(2) / len(text),
    }


TASKS: dict[str, Scorer] = {
    "lambada": _lambada,
    "hellaswag": _hellaswag,
    "cbt": _cbt,
    **dict.fromkeys(("wikitext2", "wikitext103", "ptb", "enwik8", "text8"), _plain_text),
}


def _share(scores: list[Likelihood]) -> float:
    return sum(score.greedy for score in scores) / len(scores)


def _perplexity(scores: list[Likelihood]) -> float:
    """Of the whole targets."""
    return _exp(sum(score.nats for score in scores) / len(scores))


def _exp(nats: float) -> float:
    return math.exp(min(nats, 700.0))


def _rows(file: Path) -> list[Any]:
    """JSON lines, or plain lines where the first is no JSON object."""
    lines = [line for line in _text(file).split("\n") if line.strip()]
    if not lines:
        raise ValueError("it is empty")
    return [json.loads(line) for line in lines] if lines[0].lstrip().startswith("{") else lines


def _text(file: Path) -> str:
    text = file.read_text(encoding="utf-8")
    if not text.strip():
        raise ValueError("it is empty")
    return text
