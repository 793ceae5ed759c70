"""What the report says of a run, gathered from its folder: works for runs under way, stopped and finished alike."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from statistics import median
from typing import Any

import yaml

from configs.errors import UserError
from configs.evaluation import BestBy, EvaluateSettings
from gpt2core.checkpoints.checkpoint import find_checkpoints, read_state
from gpt2core.checkpoints.state import CheckpointState
from gpt2core.lens.maps import HeatMap, guesses_across, rankings_across, watched_across
from gpt2core.machine.quantities import bytes_text
from gpt2core.store.manifest import Manifest, read_manifest
from gpt2core.training.ranking import costs_by_step
from tasks.reports.charts import Chart, chart, series, smoothed
from tasks.reports.figures import (
    DetailTable,
    FigureRow,
    StepFigures,
    detail_tables,
    evenly,
    figure_charts,
    figure_rows,
    name_of,
    text_of,
)
from tasks.reports.lens import recorded_histories
from tasks.runs.evaluation_files import read_report
from tasks.runs.run_folder import RunFolder
from tasks.runs.run_record import RunRecord
from tasks.workspace.folders import Workspace

MOST_STEPS = 10
"""Evaluations shown side by side."""
SMOOTHING = 50
"""The loss is smoothed over this part of all steps."""
HEADLINES = ("val_loss", "perplexity", "bits_per_byte", "accuracy")


@dataclass(frozen=True)
class Headline:
    """A figure at the first evaluation and at the best one."""

    name: str
    before: str
    best: str


@dataclass(frozen=True)
class Sample:
    """A completion at a step, with remarks such as that it ended by itself."""

    step: int
    completion: str
    remarks: list[str]


@dataclass(frozen=True)
class LensAcross:
    """The lens on one prompt across training."""

    prompt: str
    guesses: HeatMap
    watched: list[HeatMap]
    rankings: list[HeatMap]


@dataclass(frozen=True)
class RunFacts:
    """Everything on the page, in its order."""

    run: str
    state: str
    headlines: list[Headline]
    best_step: int | None
    warnings: list[str]
    curves: list[Chart]
    figure_charts: list[Chart]
    steps: list[int]
    figures: list[FigureRow]
    details: list[DetailTable]
    """What the evaluation at the best step has written beside its figures."""
    samples: dict[str, list[Sample]]
    """By prompt."""
    lens: list[LensAcross]
    text: list[tuple[str, str]]
    identity: list[tuple[str, str]]
    config: str
    """As YAML."""
    commands: list[str]


def gather_facts(folder: RunFolder) -> RunFacts:
    """Read what the run has written so far."""
    record, result, rows = folder.read_record(), folder.read("result"), folder.evaluations.rows()
    settings = record.config.evaluate if record else EvaluateSettings()
    best = _best(rows, settings.best_by)
    steps = evenly((int(row["step"]) for row in rows), MOST_STEPS, best)
    shown = [row for row in rows if row["step"] in steps]
    newest = _newest_state(folder)
    revision = (newest and newest.git_revision) or ""
    return RunFacts(
        run=folder.id,
        state=_state(folder, record, result),
        headlines=_headlines(rows, best),
        best_step=best,
        warnings=_warnings(rows, settings.copied_tokens),
        curves=_curves(folder, rows),
        figure_charts=figure_charts(rows),
        steps=steps,
        figures=figure_rows(shown),
        details=detail_tables(read_report(folder, best)) if best is not None else [],
        samples=_samples(folder, steps),
        lens=_lens(folder, steps),
        text=_text(record) if record else [],
        identity=_identity(folder, record, result, newest),
        config=yaml.safe_dump(record.settings if record else {}, sort_keys=False, allow_unicode=True, width=100),
        commands=_commands(revision),
    )


def _state(folder: RunFolder, record: RunRecord | None, result: dict[str, Any]) -> str:
    state = "finished" if result else folder.state()
    last = max((int(row["step"]) for row in folder.metrics.rows()[-1:]), default=0)
    total = result.get("steps") or (record.config.train.steps if record else last)
    done = f"{total:,} steps" if result else f"step {last:,} of {total:,}"
    version = f", {result['model']} version {result['version']} ({result['alias']})" if result.get("version") else ""
    return f"{state}, {done}{version}"


def _best(rows: list[StepFigures], best_by: BestBy) -> int | None:
    costs = costs_by_step(rows, best_by)
    return min(costs, key=lambda step: costs[step]) if costs else None


def _headlines(rows: list[StepFigures], best: int | None) -> list[Headline]:
    if not rows:
        return []
    first, at_best = rows[0], next(row for row in rows if row["step"] == best)
    there = [key for key in HEADLINES if key in first and key in at_best]
    return [Headline(name_of(key), text_of(key, first[key]), text_of(key, at_best[key])) for key in there]


def _warnings(rows: list[StepFigures], copied_tokens: int) -> list[str]:
    """What in the last evaluation should make its reader doubt."""
    if not rows:
        return []
    last, found = rows[-1], []
    step = int(last["step"])
    lowest = min(row["val_loss"] for row in rows)
    if last["val_loss"] > 1.02 * lowest:
        found.append(
            f"The validation loss has risen from {lowest:.3f} to {last['val_loss']:.3f} at step {step:,}: the model overfits."
        )
    if last.get("sample_loops", 0.0) > 0:
        found.append(f"At step {step:,}, {last['sample_loops']:.0%} of the samples end in a loop.")
    if (copied := last.get("sample_longest_copy", 0.0)) > copied_tokens > 0:
        found.append(f"At step {step:,} a sample repeats {copied:.0f} tokens of the training text word for word.")
    return found


def _curves(folder: RunFolder, rows: list[StepFigures]) -> list[Chart]:
    metrics, timing = folder.metrics.rows(), folder.timing.rows()
    losses = [row["loss"] for row in metrics]
    steps = [row["step"] for row in metrics]
    smooth = smoothed(losses, max(1, len(losses) // SMOOTHING))
    made = [
        chart(
            "loss, nats a token",
            series("training, each step", zip(steps, losses, strict=True), faint=True),
            series("training, smoothed", zip(steps, smooth, strict=True)),
            series("validation", [(row["step"], row["val_loss"]) for row in rows], dotted=True),
        ),
        chart("learning rate", series("learning rate", [(row["step"], row["learning_rate"]) for row in metrics])),
        chart("gradient norm", series("gradient norm", [(row["step"], row["gradient_norm"]) for row in metrics])),
        chart("tokens a second", series("tokens a second", [(row["step"], row["tokens_per_second"]) for row in timing])),
    ]
    return [found for found in made if found is not None]


def _samples(folder: RunFolder, steps: list[int]) -> dict[str, list[Sample]]:
    found: dict[str, list[Sample]] = {}
    for step in steps:
        passages = (read_report(folder, step).get("copies") or {}).get("passages", [])
        copied = {passage["sample"]: f"repeats {passage['tokens']} tokens of {passage['source']}" for passage in passages}
        for number, row in enumerate(folder.samples_of(step)):
            remarks = _remarks(row) + ([copied[number]] if number in copied else [])
            found.setdefault(row["prompt"], []).append(Sample(step, row["completion"], remarks))
    return found


def _remarks(row: dict[str, Any]) -> list[str]:
    """Whatever else was noted about a sample."""
    more = {key: value for key, value in row.items() if key not in ("step", "prompt", "completion") and value is not False}
    return [key if value is True else f"{value} {key}" for key, value in more.items() if not isinstance(value, list | dict)]


def _lens(folder: RunFolder, steps: list[int]) -> list[LensAcross]:
    found = []
    for history in recorded_histories(folder, steps):
        prompt = next(iter(history.values())).prompt
        found.append(LensAcross(prompt, guesses_across(history), watched_across(history), rankings_across(history)))
    return found


def _text(record: RunRecord) -> list[tuple[str, str]]:
    source = [("source", ", ".join(record.config.data.source))]
    with suppress(UserError):
        return source + _store_facts(read_manifest(Workspace.current().stores / record.store))
    return source


def _store_facts(manifest: Manifest) -> list[tuple[str, str]]:
    train, held_out = manifest.counts["train"], manifest.counts["validation"]
    tokens, size = train.tokens + held_out.tokens, train.bytes + held_out.bytes
    dropped = ", ".join(f"{count:,} {reason}" for reason, count in manifest.dropped.items() if count)
    facts = [
        ("documents", f"{train.documents:,} for training, {held_out.documents:,} held out"),
        ("size", f"{bytes_text(size)}, {tokens:,} tokens, {size / max(1, tokens):.2f} bytes a token"),
        ("held out", f"{held_out.tokens:,} tokens, {held_out.tokens / max(1, tokens):.1%} of the text"),
        ("vocabulary", f"{manifest.n_vocab:,} entries"),
    ]
    return facts + ([("left out", dropped)] if dropped else [])


def _identity(
    folder: RunFolder, record: RunRecord | None, result: dict[str, Any], newest: CheckpointState | None
) -> list[tuple[str, str]]:
    parameters = f"{result['parameters']:,}" if result else ""
    speeds = [row["tokens_per_second"] for row in folder.timing.rows()]
    registered = f"models:/{result['model']}/{result['version']}, alias {result['alias']}" if result.get("version") else ""
    facts = {
        "run": folder.id,
        "started": str(record.started) if record else "",
        "folder": str(folder.path),
        "base model": record.config.model.base if record else "",
        "parameters": parameters,
        "token store": record.store if record else "",
        "git revision": newest.git_revision if newest else "",
        "MLflow run": record.mlflow_run_id if record else "",
        "registered": registered,
        "speed": f"{median(speeds):,.0f} tokens a second in training" if speeds else "",
        "libraries": ", ".join(f"{name} {version}" for name, version in (newest.versions if newest else {}).items()),
    }
    return [(name, text) for name, text in facts.items() if text]


def _commands(revision: str) -> list[str]:
    checkout = [f"git checkout {revision}"] if revision else []
    return [*checkout, "gpt2flow run run.yaml   # the settings above, saved as run.yaml"]


def _newest_state(folder: RunFolder) -> CheckpointState | None:
    checkpoints = find_checkpoints(folder.checkpoints)
    with suppress(OSError, UserError):
        return read_state(checkpoints[-1]) if checkpoints else None
    return None
