"""What the model at this step predicts and writes: validation figures and samples from fixed prompts."""

from __future__ import annotations

import re

from prefect import task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE

from tasks.console import say
from tasks.evaluate_step import Subject, evaluate_step
from tasks.open_run import FinetuneRun
from tasks.run_folder import RunFolder


@task(task_run_name="sample_and_evaluate_{step}", cache_policy=NO_CACHE, persist_result=False)
def sample_and_evaluate(run: FinetuneRun, step: int) -> None:
    """Evaluate the model on the validation split, complete the fixed prompts, and record both in the run's folder.

    A step counts as evaluated once its row stands in evaluations.jsonl, which is written last.
    """
    trainer = run.trainer
    computing_model = trainer.computing_model()
    row = evaluate_step(Subject(run.folder, run.config, step, trainer.model, computing_model, run.tokenizer, run.held_out))
    record_evaluation(run.folder, row)


def record_evaluation(folder: RunFolder, row: dict[str, float]) -> None:
    """Append a row of figures, say it, and show it with the samples in Prefect."""
    folder.evaluations.append([row])
    step = int(row["step"])
    line = (
        f"validation loss {row['val_loss']:.3f}, perplexity {row['perplexity']:,.1f}, {row['bits_per_byte']:.3f} bits per byte"
    )
    say(f"step {step}", line)
    text = folder.sample_files(step)[1].read_text(encoding="utf-8")
    key = re.sub(r"[^a-z0-9]+", "-", f"samples-{folder.id}".lower())  # Prefect allows nothing else
    create_markdown_artifact(markdown=f"**{folder.id}, step {step}:** {line}\n\n```text\n{text}\n```", key=key)
