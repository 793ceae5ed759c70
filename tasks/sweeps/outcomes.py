"""What the runs of a sweep came to, and how that is shown."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mlflow import MlflowClient
from prefect.artifacts import create_table_artifact
from rich.markup import escape
from rich.table import Column, Table

from configs.grid import Member, Sweep
from tasks.finetuning.result import RunResult
from tasks.runs.run_folder import RunFolder
from tasks.terminal.console import console, warn
from tasks.terminal.prefect_page import shown_if_served
from tasks.tracking.away import AWAY

TAG = "gpt2flow.sweep"
"""On an MLflow run: the id of the sweep that it has been a part of last."""
BEST_TAG = "gpt2flow.sweep.best"


@dataclass(frozen=True)
class Outcome:
    """A run of a sweep that is finished, or why it is not."""

    member: Member
    result: RunResult | None = None
    problem: str = ""

    @property
    def cost(self) -> float:
        """Bits per byte at the best checkpoint, which compare different vocabularies too; infinite where there are none."""
        found = self.result.best.bits_per_byte if self.result else math.inf
        return found if math.isfinite(found) else math.inf

    def cells(self) -> dict[str, str]:
        """The row of a table: the grid's values, the figures at the best checkpoint, the run."""
        values = {key: str(value) for key, value in self.member.values.items()}
        if self.result is None:
            return {**values, "validation loss": "", "bits per byte": "", "step": "", "run": "failed"}
        best = self.result.best
        figures = {"validation loss": f"{best.val_loss:.4f}", "bits per byte": f"{best.bits_per_byte:.4f}"}
        return {**values, **figures, "step": f"{self.result.best_step:,}", "run": self.result.run}


def best_of(outcomes: Sequence[Outcome]) -> Outcome | None:
    """The run with the fewest bits per byte of held-out text, the first of equal ones; None where none is finished."""
    best = min(outcomes, key=lambda outcome: outcome.cost)
    return best if math.isfinite(best.cost) else None


def show_outcomes(plan: Sweep, outcomes: Sequence[Outcome]) -> None:
    """Print the table, and keep it in Prefect and as tags in MLflow."""
    best = best_of(outcomes)
    marked = [({"": "★" if outcome is best else ""} | outcome.cells()) for outcome in outcomes]
    table = Table(*(Column(name, no_wrap=name == "run") for name in marked[0]), box=None, padding=(0, 2, 0, 0))
    for row, outcome in zip(marked, outcomes, strict=True):
        table.add_row(*map(escape, row.values()), style="green" if outcome is best else "red" if outcome.problem else "")
    console.print()
    console.print(table)
    for outcome in outcomes:
        if outcome.problem:
            console.print(f"[red]{escape(outcome.member.label)}[/] failed: {escape(outcome.problem)}", soft_wrap=True)
    with shown_if_served("the table of the sweep"):
        key = re.sub(r"[^a-z0-9]+", "-", plan.id.lower())
        create_table_artifact(marked, key=key, description=f"Sweep {plan.id}: validation at the best checkpoint of each run")
    _tag_in_mlflow(plan, outcomes, best)


def _tag_in_mlflow(plan: Sweep, outcomes: Sequence[Outcome], best: Outcome | None) -> None:
    """So that MLflow's page finds exactly these runs, and compares them."""
    client = MlflowClient()
    try:
        for outcome in outcomes:
            run_id = RunFolder(Path(outcome.result.folder)).record.mlflow_run_id if outcome.result else None
            if run_id:
                client.set_tag(run_id, TAG, plan.id)
                client.set_tag(run_id, BEST_TAG, str(outcome is best).lower())
    except AWAY as error:
        warn("tracking", f"MLflow did not take the sweep's tags ({type(error).__name__}): the same command sets them later")
        return
    console.print(
        f'In MLflow, experiment {plan.name}: tags."{TAG}" = "{plan.id}" finds the finished ones to compare.', soft_wrap=True
    )
