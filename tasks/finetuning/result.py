"""What a finished run came to, kept in its folder."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace

from pydantic import TypeAdapter

from gpt2core.evaluation.held_out import Evaluation
from tasks.finetuning.finetune_run import FinetuneRun
from tasks.promotion.ledger import Decision
from tasks.registry.lookup import CHAMPION
from tasks.runs.models import best_checkpoint
from tasks.runs.run_folder import RunFolder


@dataclass(frozen=True)
class RunResult:
    """The summary's figures and texts."""

    run: str
    folder: str
    steps: int
    documents: int
    bytes: int
    tokens: int
    n_vocab: int
    parameters: int
    before: Evaluation
    best: Evaluation
    best_step: int
    prompt: str
    completion_before: str
    completion_after: str
    model: str
    alias: str
    version: str | None
    stopped_early: bool = False
    promotion: str = ""
    """The verdict on the registered version with its grounds; empty where none was asked for."""


def write_result(run: FinetuneRun, version: str | None) -> RunResult:
    """Gather the summary of a run that reached its last step, or stopped early, and mark the run as finished."""
    folder, counts = run.folder, run.store.manifest.counts.values()
    best_step = int(best_checkpoint(folder).name.removeprefix("step-"))
    before, after = _first_sample(folder, 0), _first_sample(folder, run.trainer.step)
    result = RunResult(
        run=folder.id,
        folder=str(folder.path),
        steps=run.trainer.step,
        documents=sum(split.documents for split in counts),
        bytes=sum(split.bytes for split in counts),
        tokens=sum(split.tokens for split in counts),
        n_vocab=run.tokenizer.n_vocab,
        parameters=run.trainer.model.parameter_count(),
        before=_evaluation_at(folder, 0),
        best=_evaluation_at(folder, best_step),
        best_step=best_step,
        prompt=before["prompt"],
        completion_before=before["completion"],
        completion_after=after["completion"],
        model=run.config.registry.model or run.config.name,
        alias=run.config.registry.alias,
        version=version,
        stopped_early=run.trainer.step < run.config.train.steps,
    )
    folder.write("result", asdict(result))
    return result


def after_promotion(result: RunResult, decision: Decision) -> RunResult:
    """The summary with what the promotion has decided."""
    alias = CHAMPION if decision.after.champion == result.version else result.alias
    return replace(result, promotion=f"{decision.verdict}. {decision.why}", alias=alias)


def read_result(folder: RunFolder) -> RunResult | None:
    """The summary of a finished run, with its folder as it lies now; None while it is not finished."""
    values = folder.read("result")
    return TypeAdapter(RunResult).validate_python({**values, "folder": str(folder.path)}) if values else None


def _evaluation_at(folder: RunFolder, step: int) -> Evaluation:
    """Figures of a step, or of the nearest one where a damaged file has lost them."""
    row = min(folder.evaluations.rows(), key=lambda row: abs(row["step"] - step))
    return Evaluation(row["val_loss"], row["perplexity"], row["bits_per_byte"], int(row["val_tokens"]))


def _first_sample(folder: RunFolder, step: int) -> dict[str, str]:
    samples = folder.samples_of(step)
    return dict(samples[0]) if samples else {"prompt": "", "completion": ""}
