"""The table of runs."""

from __future__ import annotations

from rich.console import Console
from rich.table import Column, Table

from tasks.runs.find import all_runs
from tasks.runs.run_folder import RunFolder
from tasks.tracking.reconciliation import reconcile
from tasks.workspace.folders import Workspace

COLOURS = {"running": "cyan", "finished": "green", "failed": "red", "stopped": "yellow"}


def print_runs(console: Console) -> None:
    """Print every run of the workspace: state, step, losses, registered version, the latest first."""
    runs = all_runs(Workspace.current())
    if not runs:
        console.print("No runs yet. Start one: gpt2flow run configs/demo.yaml")
        return
    name = Column("run", no_wrap=True, min_width=max(len(run.id) for run in runs))  # whole, since it is typed elsewhere
    table = Table(name, "state", "step", "loss", "val loss", "version", box=None, padding=(0, 2, 0, 0))
    for run in runs:
        table.add_row(*_row(run))
    console.print(table)
    for run in runs:
        if run.state() == "failed":
            console.print(f"[red]{run.id}[/] failed: {run.read('failure').get('error')}", highlight=False)


def tell_mlflow(console: Console, everything: bool) -> None:
    """Deliver to MLflow what it missed and print what was done; `everything` asks it about all runs."""
    for run, outcome in reconcile(Workspace.current(), everything).items():
        console.print(f"{run}: {outcome}", highlight=False)


def _row(run: RunFolder) -> list[str]:
    metrics, evaluations, state = run.metrics.rows(), run.evaluations.rows(), run.state()
    steps = run.record.settings["train"]["steps"]
    result = run.read("result")
    return [
        run.id,
        f"[{COLOURS[state]}]{state}[/]",
        f"{int(metrics[-1]['step']) if metrics else 0:,}/{steps:,}",
        f"{metrics[-1]['loss']:.3f}" if metrics else "",
        f"{min(row['val_loss'] for row in evaluations):.3f}" if evaluations else "",
        f"{result['model']} {result['version']}" if result.get("version") else "",
    ]
