"""Measure a model for a promotion: loss by document, samples and what is wrong with them, canaries, tasks; and speed."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import count, islice

import torch
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from configs.errors import UserError
from configs.generation import CompletionSettings
from configs.promotion import TaskRule
from gpt2core.evaluation.canaries import exposure_of
from gpt2core.evaluation.document_scores import DocumentScores
from gpt2core.evaluation.held_out import EvaluationReport, evaluate
from gpt2core.evaluation.sample_quality import repetition, sample_quality
from gpt2core.evaluation.zero_shot import run_task
from gpt2core.generation.completion import Completion, complete
from gpt2core.generation.inference import for_inference
from gpt2core.generation.sampling import generate
from gpt2core.model.gpt2 import GPT2
from gpt2core.store.document_stream import text_of_documents
from gpt2core.text.documents import Document
from gpt2core.text.tokenizer import Tokenizer
from gpt2core.weights.model_folder import weight_files
from tasks.evaluation.copied_passages import CopiedText, CopySearch
from tasks.evidence.entrant import Entrant
from tasks.evidence.evidence import Contender, EvidenceSample, SourceFigure
from tasks.evidence.learnt_text import store_here

BATCH = 4
"""Windows scored together."""
ROUNDS, TOKENS, SECONDS = 5, 24, 4.0
"""Each model generates so many tokens a turn, in at least so many turns and seconds, and its fastest turn counts."""
SHOWN = 10
CURVE_POINTS = 200
PASSAGES = 200
"""Documents of whose text the repetition is counted."""


@dataclass(frozen=True)
class Questions:
    """What both models are asked, beside the text."""

    prompts: Sequence[str]
    samples: int
    sampling: CompletionSettings
    canaries: Sequence[str]
    tasks: Mapping[str, TaskRule]
    stride: int = 0


@dataclass(frozen=True)
class MeasuredEntrant:
    """A contender and its loss of each document."""

    contender: Contender
    scores: DocumentScores


def measure_entrant(
    entrant: Entrant, loaded: tuple[GPT2, Tokenizer], documents: Sequence[Document], questions: Questions
) -> MeasuredEntrant:
    """Everything but its speed. A loss that is no number gives figures that are None."""
    model, tokenizer = loaded
    report = evaluate(model, text_of_documents(documents, tokenizer), BATCH, stride=questions.stride or None)
    sound = math.isfinite(float(report.documents.nats.sum()))
    samples = _samples(model, tokenizer, questions) if sound else []
    written = [_ids(sample) for sample in samples]
    quality = sample_quality(written, [sample.ending != "length" for sample in samples])
    copied = _copied(entrant, tokenizer, written)
    contender = Contender(
        reference=entrant.reference,
        version=entrant.version.number if entrant.version else None,
        run=entrant.version.tags.get("run") if entrant.version else None,
        content=entrant.content,
        parameters=model.parameter_count(),
        n_vocab=model.config.n_vocab,
        bytes=sum(file.stat().st_size for file in weight_files(entrant.folder)),
        bits_per_byte=report.figures.bits_per_byte,
        val_loss=report.figures.val_loss,
        accuracy=report.figures.accuracy if sound else None,
        calibration_error=report.figures.calibration_error if sound else None,
        repetition=quality.repetition if quality else None,
        text_repetition=_text_repetition(documents, tokenizer, questions.sampling.max_new_tokens),
        loops=quality.loops if quality else None,
        copied_share=copied.share if copied else None,
        copied_tokens=copied.longest if copied else None,
        canary_exposure=max((exposure_of(model, tokenizer, canary).exposure for canary in questions.canaries), default=None)
        if sound
        else None,
        tasks={task: dict(run_task(model, tokenizer, task, rule.file).figures) for task, rule in questions.tasks.items()},
        by_source=_by_source(report),
        samples=[EvidenceSample(prompt=sample.prompt, text=sample.text) for sample in samples[:SHOWN]],
        curve=_curve(entrant),
    )
    return MeasuredEntrant(contender, report.documents)


def race(candidate: Entrant, rival: Entrant, prompt: str) -> tuple[float | None, float | None]:
    """Seconds a token of both, in turns so that a machine that gets busy slows both; None where one cannot be timed."""
    writers = []
    for entrant in (candidate, rival):
        model, tokenizer = entrant.load()
        ids = tokenizer.encode(prompt, special=False)[: model.config.n_ctx // 2] or [tokenizer.end_of_text]
        writers.append((for_inference(model), torch.tensor([ids], device=model.wte.weight.device)))
    best, start = [math.inf, math.inf], time.perf_counter()
    try:
        for turn in count():
            for number, (writer, tokens) in enumerate(writers):
                begun = time.perf_counter()
                generate(writer, tokens, max_new_tokens=TOKENS, top_k=1)
                if turn:  # the first one warms up
                    best[number] = min(best[number], (time.perf_counter() - begun) / TOKENS)
            if turn >= ROUNDS and time.perf_counter() - start > SECONDS:
                break
    except (UserError, RuntimeError):  # probabilities that are no numbers cannot be drawn from
        return None, None
    return best[0], best[1]


def _samples(model: GPT2, tokenizer: Tokenizer, questions: Questions) -> list[Completion]:
    """So many samples in all, the first of each prompt first, then the second of each."""
    prompts = list(questions.prompts) or [""]
    each = math.ceil(questions.samples / len(prompts))
    found = list(complete(for_inference(model), tokenizer, prompts, questions.sampling.model_copy(update={"samples": each})))
    in_turn = sorted(found, key=lambda sample: sample.sample)
    return list(islice(in_turn, questions.samples))


def _ids(sample: Completion) -> list[int]:
    return sample.tokens[:-1] if sample.ending == "end_of_text" else sample.tokens


def _text_repetition(documents: Sequence[Document], tokenizer: Tokenizer, length: int) -> float:
    """Of passages of the text that are as long as a sample, one of each document."""
    passages = [tokenizer.encode(document.text, special=False)[:length] for document in documents[:PASSAGES]]
    return sum(map(repetition, passages)) / len(passages)


def _copied(entrant: Entrant, tokenizer: Tokenizer, samples: Sequence[Sequence[int]]) -> CopiedText | None:
    """None where its training text is not here, or it has written nothing."""
    store = store_here(entrant.version.tags.get("store")) if entrant.version else None
    if store is None or store.manifest.tokenizer_sha256 != tokenizer.sha256 or not samples:
        return None
    return CopySearch(store, tokenizer).look(samples)


def _by_source(report: EvaluationReport) -> list[SourceFigure]:
    return [
        SourceFigure(name=part.name, documents=part.documents, bits_per_byte=part.bits_per_byte) for part in report.by_source
    ]


def _curve(entrant: Entrant) -> list[tuple[int, float]]:
    """Bits a byte by step, from MLflow; empty where that does not have them."""
    if entrant.version is None or not entrant.version.run_id:
        return []
    try:
        history = MlflowClient().get_metric_history(entrant.version.run_id, "bits_per_byte")
    except MlflowException:
        return []
    rows = sorted((metric.step, metric.value) for metric in history if math.isfinite(metric.value))
    every = math.ceil(len(rows) / CURVE_POINTS) or 1
    return rows[:-1:every] + rows[-1:]
