"""What the model at this step predicts and writes: validation figures and samples from fixed prompts."""

from __future__ import annotations

import re
from dataclasses import asdict

from prefect import task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE

from configs.schema import EvaluateSettings
from gpt2core.batches import validation_batches
from gpt2core.durable import write_json, write_text
from gpt2core.evaluation import Evaluation, evaluate
from gpt2core.sampling import generate_text
from tasks.console import say
from tasks.open_run import FinetuneRun


@task(task_run_name="sample_and_evaluate_{step}", cache_policy=NO_CACHE, persist_result=False)
def sample_and_evaluate(run: FinetuneRun, step: int) -> None:
    """Evaluate the model on the validation split, complete the fixed prompts, and record both in the run's folder.

    The samples are written first: a step counts as evaluated once its row stands in evaluations.jsonl.
    """
    figures = _figures(run, run.config.evaluate)
    samples = _samples(run, step)
    as_data, as_text = run.folder.sample_files(step)
    write_json(as_data, samples)
    text = "\n\n".join(f"=== {sample['prompt']!r}\n{sample['prompt']}{sample['completion']}" for sample in samples)
    write_text(as_text, text + "\n")
    run.folder.evaluations.append([{"step": step, **asdict(figures)}])
    loss, perplexity, bits = figures.val_loss, figures.perplexity, figures.bits_per_byte
    line = f"validation loss {loss:.3f}, perplexity {perplexity:,.1f}, {bits:.3f} bits per byte"
    say(f"step {step}", line)
    key = re.sub(r"[^a-z0-9]+", "-", f"samples-{run.folder.id}".lower())  # Prefect allows nothing else
    create_markdown_artifact(markdown=f"**{run.folder.id}, step {step}:** {line}\n\n```text\n{text}\n```", key=key)


def _figures(run: FinetuneRun, settings: EvaluateSettings) -> Evaluation:
    model, counts = run.trainer.computing_model(), run.store.manifest.counts["validation"]
    batch_size = run.config.train.batch_size
    batches = validation_batches(run.store.stream("validation"), model.config.n_ctx, batch_size, settings.max_windows)
    return evaluate(model, batches, counts.tokens / counts.bytes)


def _samples(run: FinetuneRun, step: int) -> list[dict[str, str | int]]:
    settings = run.config.evaluate
    return [
        {"step": step, "prompt": prompt, "completion": generate_text(run.trainer.model, run.tokenizer, prompt, settings)}
        for prompt in settings.prompts
    ]
