"""What the model at this step predicts and writes: validation figures and samples from fixed prompts."""

from __future__ import annotations

from prefect import task
from prefect.artifacts import create_markdown_artifact, create_table_artifact
from prefect.cache_policies import NO_CACHE

from tasks.evaluation.evaluate_step import Subject, evaluate_step
from tasks.finetuning.finetune_run import FinetuneRun
from tasks.finetuning.milestones import missed_evaluations
from tasks.finetuning.prefect_progress import artifact_key
from tasks.runs.flow_run_locks import note_progress
from tasks.runs.run_folder import RunFolder
from tasks.terminal.console import say, warn
from tasks.terminal.prefect_page import shown_if_served

MOST_ROWS = 50
"""Evaluations in Prefect's table."""


@task(task_run_name="sample_and_evaluate_{step}", cache_policy=NO_CACHE, persist_result=False)
def sample_and_evaluate(run: FinetuneRun, step: int) -> None:
    """Evaluate the model on the validation split, complete the fixed prompts, and record both in the run's folder.

    A step counts as evaluated once its row stands in evaluations.jsonl, which is written last.
    """
    await_evaluation.fn(run)
    if run.config.evaluate.where != "inline" and _is_saved(run, step):
        run.outside.begin(step)
        if run.config.train.early_stopping.patience:  # whether training goes on depends on the figures
            await_evaluation.fn(run)
        return
    trainer, tools = run.trainer, (run.tokenizer, run.held_out, run.copies)
    row = evaluate_step(Subject(run.folder, run.config, step, trainer.model, trainer.computing_model(), *tools))
    record_evaluation(run, row)


@task(cache_policy=NO_CACHE, persist_result=False)
def await_evaluation(run: FinetuneRun) -> None:
    """Wait for the evaluation outside of this process, if there is one, and record it."""
    if (row := run.outside.join()) is not None:
        record_evaluation(run, row)


@task(cache_policy=NO_CACHE, persist_result=False)
def make_up_evaluations(run: FinetuneRun) -> None:
    """Evaluate the checkpoints whose evaluation outside of the run was cut off together with it."""
    for step in missed_evaluations(run.config, run.folder, run.trainer.step):
        run.outside.begin(step)
        await_evaluation.fn(run)


def _is_saved(run: FinetuneRun, step: int) -> bool:
    """Whether the step's checkpoint is on the disk, once its save has ended; there is none of step 0 or on a full disk."""
    run.checkpoints.wait()
    return run.folder.checkpoint_path(step).is_dir()


def record_evaluation(run: FinetuneRun, row: dict[str, float]) -> None:
    """Append a row of figures, say it, and show it with the samples in Prefect."""
    folder, settings = run.folder, run.config.evaluate
    folder.evaluations.append([row])
    note_progress()
    run.watch.evaluated(row)
    step, loss, perplexity, bits = int(row["step"]), row["val_loss"], row["perplexity"], row["bits_per_byte"]
    line = f"validation loss {loss:.3f}, perplexity {perplexity:,.1f}, {bits:.3f} bits per byte"
    say(f"step {step}", line)
    copied, report = row.get("sample_longest_copy", 0), folder.report_files(step)[0]
    if copied > settings.copied_tokens:
        warn("samples", f"one repeats {copied:.0f} tokens of the training text word for word: see {report}")
    head = f"**{folder.id}, step {step}:** {line}"
    with shown_if_served(f"step {step}"):
        create_markdown_artifact(markdown=_short_form(folder, row, head), key=artifact_key("samples", folder))
        create_table_artifact(table=_table(folder), key=artifact_key("evaluations", folder), description=head)


def _table(folder: RunFolder) -> list[dict[str, float]]:
    """All evaluations so far, without the parts of figures."""
    rows = folder.evaluations.rows()[-MOST_ROWS:]
    return [{name: float(f"{value:.5g}") for name, value in row.items() if "/" not in name} for row in rows]


def _short_form(folder: RunFolder, row: dict[str, float], head: str) -> str:
    """The figures as a table, the samples, and where the whole report lies."""
    step = int(row["step"])
    shown = {name.replace("_", " "): value for name, value in row.items() if name != "step" and "/" not in name}
    table = "\n".join(["| figure | value |", "|---|---|", *(f"| {name} | {value:,.4g} |" for name, value in shown.items())])
    report, text = folder.report_files(step)[0], folder.sample_files(step)[1].read_text(encoding="utf-8")
    return f"{head}\n\n{table}\n\n```text\n{text}\n```\n\nReport: [{report}]({report.as_uri()})"
