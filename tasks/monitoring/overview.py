"""Everything that a workspace has made, gathered for one page: runs, versions and decisions, nights, what was told."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import quote

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from configs.errors import UserError
from gpt2core.machine.durable import require_place, write_text
from tasks.alerts.alert_log import AlertLog, Entry
from tasks.promotion.history import read_history
from tasks.promotion.ledger import Decision
from tasks.promotion.versions import list_versions
from tasks.registry.lookup import registered_models
from tasks.reports.charts import Chart, chart, series
from tasks.reports.page import render
from tasks.runs.find import all_runs
from tasks.runs.run_folder import RunFolder
from tasks.scheduling.nights import Night, all_nights
from tasks.workspace.folders import Workspace

MOST_CURVES = 6
"""Runs of one name whose curves stand in one chart, the latest ones."""


@dataclass(frozen=True)
class RunRow:
    """A run in the table."""

    run: str
    name: str
    state: str
    started: datetime
    steps: int
    best_step: int | None
    val_loss: float | None
    bits_per_byte: float | None
    version: str
    error: str
    report: str
    """Its own page, seen from this one; empty where there is none."""


@dataclass(frozen=True)
class VersionLine:
    """A version in the table of its model."""

    number: str
    aliases: str
    val_loss: float | None
    bits_per_byte: float | None
    run: str
    lineage: str
    registered: datetime


@dataclass(frozen=True)
class ModelPart:
    """A registered model: versions, newest first, and what was decided about it."""

    name: str
    versions: list[VersionLine]
    decisions: list[Decision]


@dataclass(frozen=True)
class NightRow:
    """A night, and what its run came to."""

    night: Night
    outcome: str
    bits_per_byte: float | None


@dataclass(frozen=True)
class NightsPart:
    """The nights of a config, oldest first."""

    name: str
    nights: list[NightRow]
    curve: Chart | None
    """What the nights' models are worth."""


@dataclass(frozen=True)
class Overview:
    """Everything on the page, in its order."""

    workspace: str
    made: datetime
    runs: list[RunRow]
    curves: list[Chart]
    models: list[ModelPart]
    models_problem: str
    """Why the registry is not shown; empty where it is."""
    nights: list[NightsPart]
    alerts: list[Entry]


def write_overview(workspace: Workspace, path: Path | None = None) -> Path:
    """Write the page, into the workspace unless a path is given; returns where it is."""
    path = (path or workspace.root / "report.html").absolute()
    require_place(path)
    overview = gather_overview(workspace, path.parent)
    template = Path(__file__).parent, "page_of_workspace.html"
    write_text(path, render(*template, title=f"gpt2flow: {workspace.root}", overview=overview))
    return path


def gather_overview(workspace: Workspace, place: Path) -> Overview:
    """Read what there is; the page will lie in the folder `place`, from where its links lead to the runs' own pages."""
    runs = all_runs(workspace)
    models, problem = _models()
    return Overview(
        workspace=str(workspace.root),
        made=datetime.now().astimezone(),
        runs=[_run(run, place) for run in runs],
        curves=_curves(runs),
        models=models,
        models_problem=problem,
        nights=[_nights(folder.name, workspace) for folder in sorted(workspace.nights.glob("*")) if folder.is_dir()],
        alerts=AlertLog(workspace).entries()[::-1],
    )


def _run(run: RunFolder, place: Path) -> RunRow:
    record, result, rows = run.record, run.read("result"), run.evaluations.rows()
    best = min(rows, key=lambda row: row["val_loss"], default=None)
    metrics = run.metrics.rows()
    return RunRow(
        run=run.id,
        name=record.name,
        state=run.state(),
        started=record.started,
        steps=int(metrics[-1]["step"]) if metrics else 0,
        best_step=int(best["step"]) if best else None,
        val_loss=best["val_loss"] if best else None,
        bits_per_byte=best.get("bits_per_byte") if best else None,
        version=f"{result['model']} {result['version']}" if result.get("version") else "",
        error=str(run.read("failure").get("error", "")) if run.state() == "failed" else "",
        report=quote(os.path.relpath(run.report_page, place)) if run.report_page.is_file() else "",
    )


def _curves(runs: list[RunFolder]) -> list[Chart]:
    """A chart for each name: validation loss by step of its latest runs."""
    named: dict[str, list[RunFolder]] = {}
    for run in runs:
        named.setdefault(run.record.name, []).append(run)
    made = [
        chart(
            f"{name}: validation loss, nats a token",
            *(
                series(run.id, [(row["step"], row["val_loss"]) for row in run.evaluations.rows()], dotted=True)
                for run in latest[:MOST_CURVES]
            ),
        )
        for name, latest in named.items()
    ]
    return [found for found in made if found is not None]


def _models() -> tuple[list[ModelPart], str]:
    try:
        return [_model(name) for name in registered_models(MlflowClient())], ""
    except (MlflowException, OSError) as error:
        return [], f"MLflow does not answer ({str(error).splitlines()[0][:200]}): run this again when it is back."


def _model(name: str) -> ModelPart:
    lines = [
        VersionLine(
            row.version.number,
            ", ".join(row.version.aliases),
            row.figures.get("val_loss"),
            row.figures.get("bits_per_byte"),
            row.version.tags.get("run", ""),
            " ← ".join(row.lineage),
            datetime.fromtimestamp(row.version.created / 1000, UTC).astimezone(),
        )
        for row in list_versions(name)
    ]
    decisions: list[Decision] = []
    with suppress(UserError):
        decisions = read_history(name).decisions[::-1]
    return ModelPart(name, lines, decisions)


def _nights(name: str, workspace: Workspace) -> NightsPart:
    rows = [_night(night, workspace) for night in all_nights(name)]
    worth = [(number, row.bits_per_byte) for number, row in enumerate(rows, 1) if row.bits_per_byte is not None]
    curve = chart("bits per byte of each night's best checkpoint", series("bits per byte", worth, dotted=True))
    return NightsPart(name, rows, curve)


def _night(night: Night, workspace: Workspace) -> NightRow:
    rows = RunFolder(workspace.runs / night.run).evaluations.rows() if night.run else []
    best = min((row["bits_per_byte"] for row in rows if "bits_per_byte" in row), default=None)
    outcome = ("promoted" if night.promoted else "not promoted") if night.ended else "under way, or interrupted"
    return NightRow(night, outcome, best)
