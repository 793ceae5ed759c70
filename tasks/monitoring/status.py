"""How the runs of a workspace stand, what starts next and what was told, gathered from files and from Prefect's server.

Reads only, and loads neither PyTorch nor MLflow.
"""

from __future__ import annotations

import os
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from itertools import pairwise
from math import isfinite
from statistics import median
from typing import Any

import psutil

from configs.evaluation import BestBy
from gpt2core.training.ranking import costs_by_step
from tasks.alerts.alert_log import AlertLog, Entry
from tasks.runs.find import all_runs
from tasks.runs.run_folder import RunFolder, RunState
from tasks.servers.running import running_dashboard
from tasks.workspace.folders import Workspace

MOST_LOSSES = 60
"""Points of a curve; more fit on no line of a terminal."""
MOST_ALERTS = 5
RECENT = 20
"""Reports of throughput whose median is the present one."""


@dataclass(frozen=True)
class LastSample:
    """A prompt and its completion at the last evaluation."""

    step: int
    prompt: str
    completion: str


@dataclass(frozen=True)
class RunStatus:
    """How a run stands. What is not known is None or empty."""

    run: str
    state: RunState
    step: int
    steps: int
    loss: float | None
    losses: list[float]
    """The loss over the whole run, in equal parts."""
    validation: list[tuple[int, float]]
    """Validation loss by evaluated step."""
    best_step: int | None
    learning_rate: float | None
    tokens_per_second: float | None
    seconds_left: float | None
    process: int | None
    memory: int | None
    """Bytes that its process holds."""
    checkpoints: list[int]
    newest_checkpoint_age: float | None
    """Seconds."""
    samples: list[LastSample]
    error: str
    mlflow_run: str


@dataclass(frozen=True)
class NextNight:
    """A deployment: when it starts next and how its last night ended."""

    name: str
    schedule: str
    paused: bool
    next_start: str | None
    last_state: str
    served: bool
    """Whether a worker looks for it."""


@dataclass(frozen=True)
class Status:
    """Everything that `gpt2flow status` shows."""

    workspace: str
    runs: list[RunStatus]
    nights: list[NextNight] | None
    """None where no server of Prefect answers."""
    alerts: list[Entry]
    servers: dict[str, str]
    """Addresses of what `gpt2flow up` or `dashboard` serves."""

    def as_json(self) -> dict[str, Any]:
        """For machines: numbers that are none become null."""
        found: dict[str, Any] = _plain(asdict(self))
        return found


def status_of(workspace: Workspace, run: RunFolder | None = None, nights: list[NextNight] | None = None) -> Status:
    """The status of one run, or of all that are under way; of the latest one where none is."""
    runs = [run] if run else all_runs(workspace)
    under_way = [found for found in runs if found.state() == "running"]
    dashboard = running_dashboard(workspace)
    return Status(
        workspace=str(workspace.root),
        runs=[run_status(found) for found in under_way or runs[:1]],
        nights=nights,
        alerts=AlertLog(workspace).entries()[-MOST_ALERTS:],
        servers={name: address for name, address in dashboard.addresses.items() if address} if dashboard else {},
    )


def run_status(run: RunFolder) -> RunStatus:
    """How one run stands."""
    record, metrics, evaluations = run.record, run.metrics.rows(), run.evaluations.rows()
    last, train = (metrics or [{}])[-1], record.settings["train"]
    step, process = int(last.get("step", 0)), run.holder()
    best_by: BestBy = record.settings.get("evaluate", {}).get("best_by", "val_loss")
    costs = costs_by_step(evaluations, best_by)
    speeds = [row["tokens_per_second"] for row in run.timing.rows()[-RECENT:]]
    saved = sorted(run.checkpoints.glob("step-" + "[0-9]" * 8))
    state = run.state()
    return RunStatus(
        run=run.id,
        state=state,
        step=step,
        steps=train["steps"],
        loss=last.get("loss"),
        losses=in_equal_parts([row["loss"] for row in metrics if isfinite(row["loss"])], MOST_LOSSES),
        validation=[(int(row["step"]), row["val_loss"]) for row in evaluations],
        best_step=min(costs, key=lambda one: costs[one]) if costs else None,
        learning_rate=last.get("learning_rate"),
        tokens_per_second=median(speeds) if speeds else None,
        seconds_left=seconds_left(run, train["steps"] - step) if state == "running" else None,
        process=process,
        memory=_memory(process),
        checkpoints=[int(path.name.removeprefix("step-")) for path in saved],
        newest_checkpoint_age=time.time() - saved[-1].stat().st_mtime if saved else None,
        samples=_samples(run, int(evaluations[-1]["step"])) if evaluations else [],
        error=str(run.read("failure").get("error", "")) if state == "failed" else "",
        mlflow_run=record.mlflow_run_id or "",
    )


def seconds_left(run: RunFolder, steps: int) -> float | None:
    """By the clock since this attempt began, so that evaluations and checkpoints count; None before two reports."""
    lock = run.path / "lock"
    began = lock.stat().st_mtime * 1000 if lock.exists() else 0.0
    rows = [row for row in run.timing.rows() if row.get("time", 0.0) >= began]
    if len(rows) < 2 or rows[-1]["step"] <= rows[0]["step"]:
        return None
    per_step = (rows[-1]["time"] - rows[0]["time"]) / 1000 / (rows[-1]["step"] - rows[0]["step"])
    since = time.time() - rows[-1]["time"] / 1000
    return max(0.0, steps * per_step - min(since, per_step * steps))


def next_nights(workspace: Workspace) -> list[NextNight] | None:
    """What starts by itself; None where no server of Prefect answers. Must come before Prefect is imported."""
    dashboard = running_dashboard(workspace)
    address = dashboard.address_of("Prefect") if dashboard else ""
    if not (address or os.environ.get("PREFECT_API_URL")):
        return None
    os.environ.setdefault("PREFECT_API_URL", f"{address}/api")
    from httpx import HTTPError

    from tasks.scheduling.deployments import list_deployments

    with suppress(HTTPError):
        return [
            NextNight(
                each.name,
                each.schedule,
                each.paused,
                each.next_start.isoformat() if each.next_start else None,
                (each.last.state_name or "") if each.last else "",
                each.served,
            )
            for each in list_deployments()
        ]
    return None


def in_equal_parts(values: list[float], most: int) -> list[float]:
    """The means of at most so many consecutive parts."""
    parts = min(most, len(values))
    edges = [len(values) * number // parts for number in range(parts + 1)] if parts else [0]
    return [sum(values[a:b]) / (b - a) for a, b in pairwise(edges)]


def _memory(process: int | None) -> int | None:
    """None for a process that has ended, or works on another machine."""
    with suppress(psutil.Error):
        return int(psutil.Process(process).memory_info().rss) if process else None
    return None


def _samples(run: RunFolder, step: int) -> list[LastSample]:
    return [LastSample(step, row["prompt"], row["completion"]) for row in run.samples_of(step)]


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return None if isinstance(value, float) and not isfinite(value) else value
