"""The verb that trains a grid of runs. Heavy libraries are imported inside it."""

from __future__ import annotations

from pathlib import Path

from configs.grid import load_sweep
from configs.schema import RunSettings
from flows.cli.app import Overrides, app
from flows.cli.prefect_start import ready_to_train
from gpt2core.text.sources import check_sources


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
    with ready_to_train(f"sweep of {len(plan.members)} runs of '{plan.name}'"):
        from flows.sweep import sweep_grid

        result = sweep_grid(plan)
    if result:
        from flows.pages.summary import print_summary

        print_summary(result)
