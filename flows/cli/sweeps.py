"""The verb that trains a grid of runs. Heavy libraries are imported inside it."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path

from configs.grid import load_sweep
from configs.schema import RunSettings
from flows.cli.app import Overrides, app
from flows.cli.prefect_start import prefect_starting
from gpt2core.text.sources import check_sources
from tasks.servers.prefect_server import naming_a_lost_server
from tasks.workspace.folders import Workspace


@app.command
def sweep(config: Path, /, *, grid: list[str] | None = None, settings: Overrides = RunSettings()) -> None:
    """Train a run for each combination of the grid's values, compare them, and register the best one.

    The same command again goes on where it was interrupted, and finds finished runs as finished, also those of
    `gpt2flow run` with the same settings. A run that fails is named at the end and does not keep the others from being trained.

    Example: `gpt2flow sweep configs/demo.yaml --grid train.learning_rate=1e-4,3e-4 --grid train.batch_size=8,16`

    Parameters
    ----------
    config
        YAML file, or the name of a ready-made one.
    grid
        A setting and the values to try, KEY=VALUE,VALUE; give it once for each setting.
    """
    plan = load_sweep(config, grid or [], settings.model_dump(exclude_unset=True))
    for member in plan.members:
        check_sources(member.config.data)
    runs = f"{len(plan.members)} runs of '{plan.name}'"
    print(f"gpt2flow {version('gpt2flow')}, sweep of {runs}: starting PyTorch, Prefect and MLflow ...", flush=True)
    workspace = Workspace.current().create()
    with prefect_starting(workspace):
        from flows.pages.summary import print_summary
        from flows.sweep import sweep_grid
        from tasks.scheduling.recovery import mend_what_died
        from tasks.tracking.reconciliation import reconcile

        reconcile(workspace)
    with naming_a_lost_server():
        mend_what_died(workspace)
        result = sweep_grid(plan)
    if result:
        print_summary(result)
