"""Evaluate any model on the held-out text that it belongs to, or on any other text, alone or against another model."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from configs.errors import UserError
from configs.evaluation import ScoringSettings
from configs.schema import DataSettings
from gpt2core.checkpoints.checkpoint import Checkpoint, read_state
from gpt2core.evaluation.document_scores import Gain, paired_gain
from gpt2core.evaluation.held_out import EvaluationReport, evaluate
from gpt2core.evaluation.zero_shot import TaskResult, run_task
from gpt2core.machine.devices import choose_device, choose_threads
from gpt2core.machine.durable import write_json
from gpt2core.machine.sealed_json import DamagedFileError
from gpt2core.model.gpt2 import GPT2
from gpt2core.store.document_stream import DocumentStream, split_of_store, text_of_documents
from gpt2core.store.encoding import encode_store
from gpt2core.store.token_store import TokenStore, open_store
from gpt2core.text.documents import Document, find_files, read_documents
from gpt2core.text.tokenizer import Tokenizer, load_tokenizer
from gpt2core.weights.loading import load_model
from tasks.evaluation.evaluate_step import report_as_dict
from tasks.runs.models import resolve_model
from tasks.workspace.folders import Workspace


@dataclass(frozen=True)
class Text:
    """What is evaluated on: all of some files, the held-out split of a corpus, or (nothing given) that of the model's run."""

    files: list[str]
    data: DataSettings | None = None


@dataclass(frozen=True)
class Comparison:
    """A model's report; with another model also that one's, and the gain over it in bits a byte."""

    model: str
    report: EvaluationReport
    against: str | None = None
    other: EvaluationReport | None = None
    gain: Gain | None = None

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        other = {"against": {"model": self.against, **report_as_dict(self.other)}} if self.other else {}
        gain = {"gain_in_bits_per_byte": asdict(self.gain)} if self.gain else {}
        return {"model": self.model, **report_as_dict(self.report), **other, **gain}


def compare(reference: str | None, text: Text, scoring: ScoringSettings, against: str | None = None) -> Comparison:
    """Evaluate one model, or two on the same text; raises UserError for an unknown model or text."""
    folder = resolve_model(reference)
    report = _evaluate(folder, folder, text, scoring)
    name = reference or str(folder)
    if against is None:
        return Comparison(name, report)
    other = _evaluate(resolve_model(against), folder, text, scoring)
    return Comparison(name, report, against, other, paired_gain(other.documents, report.documents, unit="bytes"))


def run_tasks(reference: str | None, tasks: Mapping[str, Path]) -> list[TaskResult]:
    """Score the files of zero-shot tasks; raises UserError for an unknown model, task or file."""
    folder = resolve_model(reference)
    model, tokenizer = load_to_score(folder)
    return [run_task(model, tokenizer, task, file) for task, file in tasks.items()]


def write_tasks(reference: str | None, results: list[TaskResult], path: Path) -> None:
    """Write the figures of zero-shot tasks as JSON."""
    write_json(path, {"model": reference, "tasks": [asdict(result) for result in results]})


def write_comparison(comparison: Comparison, path: Path) -> None:
    """Write the figures as JSON."""
    write_json(path, comparison.as_dict())


def _evaluate(folder: Path, owner: Path, text: Text, scoring: ScoringSettings) -> EvaluationReport:
    """Evaluate the model in `folder` on the text, which is that of `owner`'s run unless another one is given."""
    model, tokenizer = load_to_score(folder)
    held_out = _held_out(text, owner, tokenizer)
    return evaluate(model, held_out, scoring.batch_size, scoring.max_windows or None, scoring.stride or None)


def load_to_score(folder: Path) -> tuple[GPT2, Tokenizer]:
    """Model and vocabulary; a model that was trained with documents kept apart is scored so too."""
    model, tokenizer = load_model(folder, device=str(choose_device("auto"))), load_tokenizer(folder)
    choose_threads(model.config.n_embd)
    if tokenizer.n_vocab > model.config.n_vocab:
        raise UserError(
            f"The vocabulary in {folder} has {tokenizer.n_vocab:,} entries and the model {model.config.n_vocab:,}: "
            "they do not belong together."
        )
    model.separator = tokenizer.end_of_text if read_provenance(folder).mask_documents else None
    return model, tokenizer


def _held_out(text: Text, owner: Path, tokenizer: Tokenizer) -> DocumentStream:
    if text.files:
        settings = DataSettings(source=text.files)
        return text_of_documents(read_documents(find_files(settings), settings), tokenizer)
    if text.data is not None:
        stores = Workspace.current().create().stores
        return split_of_store(open_store(encode_store(find_files(text.data), text.data, tokenizer, stores)), tokenizer)
    return _split_for(open_store(_store_of(owner)), tokenizer)


def _split_for(store: TokenStore, tokenizer: Tokenizer) -> DocumentStream:
    """The validation split of a store for any vocabulary: another one than its own reads the text anew."""
    if store.manifest.tokenizer_sha256 == tokenizer.sha256:
        return split_of_store(store, tokenizer)
    own = load_tokenizer(_tokenizer_of(store))
    stored = split_of_store(store, own)
    documents = [Document(source, 0, text) for source, text in zip(stored.sources, _texts(stored, own), strict=True)]
    return replace(text_of_documents(documents, tokenizer), doc_ids=stored.doc_ids)


def _texts(stored: DocumentStream, tokenizer: Tokenizer) -> list[str]:
    tokens = np.empty(len(stored.stream), dtype=np.int64)
    stored.stream.read(0, len(tokens), tokens)
    return [tokenizer.decode(ids[:-1].tolist()) for ids in np.split(tokens, stored.starts[1:])]


def _tokenizer_of(store: TokenStore) -> Path:
    """A folder with the vocabulary of a store: a run's checkpoint that was trained on it."""
    for state in Workspace.current().runs.glob("*/checkpoints/step-*/state.json"):
        checkpoint = Checkpoint(state.parent, 0)
        with suppress(DamagedFileError):
            if read_state(checkpoint).store == store.hash:
                return checkpoint.path
    raise UserError(f"No run has the vocabulary of the token store {store.path}: give the text with --text or --config.")


def _store_of(folder: Path) -> Path:
    """The token store beside which a model was trained."""
    store = Workspace.current().stores / (read_provenance(folder).store or "unknown")
    if not store.is_dir():
        raise UserError(
            f"The text that {folder} was trained beside is not here: give one with --text, --data.source or --config."
        )
    return store


@dataclass(frozen=True)
class Provenance:
    """The token store that a model was trained on, if that is known, and whether documents were kept apart there."""

    store: str | None = None
    mask_documents: bool = False


def read_provenance(folder: Path) -> Provenance:
    """Of a run's checkpoint or a registered version; of any other folder of weights nothing is known."""
    registered = folder.parents[1] / "MLmodel"
    if (folder / "state.json").is_file():
        state = read_state(Checkpoint(folder, 0))
        return Provenance(state.store, bool(state.settings.get("data", {}).get("mask_documents")))
    if registered.is_file():
        metadata = (yaml.safe_load(registered.read_text(encoding="utf-8")) or {}).get("metadata") or {}
        return Provenance(metadata.get("store"), bool(metadata.get("mask_documents")))
    return Provenance()
