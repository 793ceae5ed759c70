"""Everything that is measured at an evaluated step of a run, written to the run's folder; the row of figures comes back.

Nothing here knows where the model comes from: the trainer's own, or a checkpoint read by another process.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from pydantic import TypeAdapter

from configs.errors import UserError
from configs.generation import CompletionSettings
from configs.schema import RunConfig
from gpt2core.evaluation.canaries import exposure_of
from gpt2core.evaluation.document_scores import DocumentScores, Gain, paired_gain
from gpt2core.evaluation.held_out import EvaluationReport, HeldOutPart, evaluate
from gpt2core.evaluation.sample_quality import sample_quality
from gpt2core.generation.completion import Completion, complete
from gpt2core.machine.durable import write_json, write_text
from gpt2core.memory.evaluation import samples_at_once
from gpt2core.model.gpt2 import GPT2
from gpt2core.store.document_stream import DocumentStream
from gpt2core.text.tokenizer import Tokenizer
from tasks.evaluation.copied_passages import CopySearch
from tasks.reports.lens import record_lens
from tasks.runs.evaluation_files import write_evaluation
from tasks.runs.run_folder import RunFolder

SOURCES_IN_ROW = 8
"""Sources, those with the most tokens, whose loss stands in the row as well as in the report."""


@dataclass(frozen=True)
class Subject:
    """A run's model at one step."""

    folder: RunFolder
    config: RunConfig
    step: int
    model: GPT2
    """In float32: it writes the samples."""
    computing_model: GPT2
    """In the dtype of training: it is scored."""
    tokenizer: Tokenizer
    text: DocumentStream
    copies: CopySearch | None


def evaluate_step(subject: Subject) -> dict[str, float]:
    """Score the held-out text, complete the fixed prompts, write report and samples; returns the row of figures."""
    settings, train = subject.config.evaluate, subject.config.train
    found = evaluate(subject.computing_model, subject.text, train.batch_size, settings.max_windows, settings.stride or None)
    gain = _gain_over_first(subject.folder, found.documents)
    samples = write_samples(subject)
    record_lens(subject.folder, subject.model, subject.tokenizer, settings, subject.step)
    written = [_ids(sample) for sample in samples]
    quality = sample_quality(written, [sample.ending != "length" for sample in samples])
    copies = subject.copies.look(written) if subject.copies else None
    canaries = [exposure_of(subject.model, subject.tokenizer, canary) for canary in settings.canaries]
    more = {"gain": gain, "samples": quality, "copies": copies, "canaries": canaries}
    _write_report(subject, found, more)
    row: dict[str, float] = {"step": subject.step, **asdict(found.figures)}
    if gain:
        row |= {"gain": gain.gain, "gain_low": gain.low, "gain_high": gain.high}
    if quality:
        row |= {f"sample_{name}": value for name, value in asdict(quality).items()}
    if copies:
        row |= {"sample_longest_copy": copies.longest, "sample_copied_share": copies.share}
    if canaries:
        row["canary_exposure"] = max(canary.exposure for canary in canaries)
    return row | _part_losses(found)


def write_samples(subject: Subject) -> list[Completion]:
    """Complete the fixed prompts and write them as JSON and as text."""
    settings = subject.config.evaluate
    own = {name: value for name, value in settings.model_dump().items() if name in CompletionSettings.model_fields}
    together = samples_at_once(subject.model.config, subject.config.train, settings)
    filled = CompletionSettings(**own, batch_size=together)
    samples = list(complete(subject.model, subject.tokenizer, settings.prompts, filled))
    as_data, as_text = subject.folder.sample_files(subject.step)
    rows = [
        {
            "step": subject.step,
            "prompt": sample.prompt,
            "completion": sample.text,
            "tokens": len(_ids(sample)),
            "ended": sample.ending != "length",
        }
        for sample in samples
    ]
    write_json(as_data, rows)
    shown = "\n\n".join(f"=== {sample.prompt!r}\n{sample.prompt}{sample.text}" for sample in samples)
    write_text(as_text, shown + "\n")
    return samples


def _ids(sample: Completion) -> list[int]:
    """What was written, without the end of text."""
    return sample.tokens[:-1] if sample.ending == "end_of_text" else sample.tokens


def _gain_over_first(folder: RunFolder, now: DocumentScores) -> Gain | None:
    """How much better than at the run's first evaluation, which is of the base model; None at that one."""
    rows = folder.evaluations.rows()
    try:
        before = DocumentScores.load(folder.report_files(int(rows[0]["step"]))[1]) if rows else None
    except UserError:  # a run that began before losses were kept by document
        return None
    return paired_gain(before, now) if before else None


def _write_report(subject: Subject, found: EvaluationReport, more: dict[str, Any]) -> None:
    found.documents.save(subject.folder.report_files(subject.step)[1])
    as_plain = TypeAdapter(dict[str, Any]).dump_python(more)
    write_evaluation(subject.folder, subject.step, {**report_as_dict(found), **as_plain})


def report_as_dict(found: EvaluationReport) -> dict[str, Any]:
    """For JSON; without the losses by document, which are a table of their own."""
    return {
        "figures": asdict(found.figures),
        "by_source": [asdict(part) for part in found.by_source],
        "by_length": [asdict(part) for part in found.by_length],
        "calibration": [asdict(part) for part in found.calibration],
    }


def _part_losses(found: EvaluationReport) -> dict[str, float]:
    """Losses of the parts under names that MLflow accepts."""
    largest = sorted(found.by_source, key=lambda part: -part.val_tokens)[:SOURCES_IN_ROW] if len(found.by_source) > 1 else []
    return _named("val_loss_by_length", found.by_length) | _named("val_loss_by_source", largest)


def _named(group: str, parts: Sequence[HeldOutPart]) -> dict[str, float]:
    return {f"{group}/{re.sub(r'[^A-Za-z0-9_.-]+', '_', part.name).strip('._') or '_'}": part.val_loss for part in parts}
