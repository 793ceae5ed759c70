"""The verb that measures a model. Heavy libraries are imported inside it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from rich.console import Console

from configs.errors import UserError
from configs.evaluation import ScoringSettings
from configs.loading import load_config
from configs.schema import DataSettings
from flows.cli.app import app
from gpt2core.machine.durable import require_place


@app.command
def evaluate(
    model: str | None = None,
    /,
    *,
    text: list[str] | None = None,
    config: Path | None = None,
    data: DataSettings | None = None,
    against: str | None = None,
    task: list[str] | None = None,
    output: Path = Path("evaluation.json"),
    settings: Annotated[ScoringSettings, Parameter(name="*")] = ScoringSettings(),
) -> None:
    """Measure a model on held-out text: loss, perplexity, bits per byte, accuracy, calibration, by source and by length.

    Without --text, --config or --data.source it is the text that was held out from the model's own run.

    Example: `gpt2flow evaluate demo --task lambada=lambada_test.jsonl`, or
    `gpt2flow evaluate models:/demo@candidate --against path/to/124M --text my-texts/new.txt`

    Parameters
    ----------
    model
        A run's id or name, a folder of weights, or models:/NAME@ALIAS; the latest run unless given.
    text
        Files, folders, globs or URLs to score all of.
    config
        A config whose held-out text is scored.
    data
        A corpus whose held-out text is scored, instead of a config's.
    against
        Another model, of any vocabulary, to compare with on the same text.
    task
        NAME=FILE instead of a text: lambada, hellaswag (JSON lines), cbt (its text files), wikitext2, wikitext103, ptb, enwik8
        or text8 (plain text), as in the GPT-2 paper. Nothing is fetched: the files are yours.
    output
        JSON file for all figures.
    """
    if task and (text or config or data or against):
        raise UserError("--task brings its own text and has no --against: leave --text, --config, --data and --against out.")
    corpus, tasks = _corpus(text, config, data), dict(_task_and_file(given) for given in task or [])
    require_place(output)
    print("gpt2flow: loading PyTorch and the model ...", file=sys.stderr, flush=True)
    from flows.pages.evaluation import print_comparison, print_tasks
    from tasks.evaluation.compare import Text, compare, run_tasks, write_comparison, write_tasks

    if tasks:
        results = run_tasks(model, tasks)
        print_tasks(results, Console(highlight=False))
        write_tasks(model, results, output)
    else:
        found = compare(model, Text(text or [], corpus), settings, against)
        print_comparison(found, Console(highlight=False))
        write_comparison(found, output)
    print(f"\nWritten: {output}")


def _corpus(text: list[str] | None, config: Path | None, data: DataSettings | None) -> DataSettings | None:
    if sum(given is not None for given in (text, config, data)) > 1:
        raise UserError("Give one of --text, --config and --data.source: they are different texts.")
    return load_config(config).data if config is not None else data


def _task_and_file(given: str) -> tuple[str, Path]:
    name, _, file = given.partition("=")
    if not file:
        raise UserError(f"--task {given} names no file: write --task {name}=FILE.")
    return name, Path(file)
