"""Verbs that train, and those that look after runs. Heavy libraries are imported inside them."""

from __future__ import annotations

import sys
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from configs.errors import UserError
from configs.loading import load_config
from configs.schema import RunConfig, RunSettings
from flows.cli.app import Overrides, app
from flows.cli.prefect_start import ready_to_train
from gpt2core.text.sources import check_sources
from tasks.workspace.folders import Workspace

if TYPE_CHECKING:
    from tasks.finetuning.result import RunResult


@app.command
def run(config: Path, /, *, settings: Overrides = RunSettings()) -> None:
    """Load, encode, train, sample and evaluate, register: everything that CONFIG says.

    Run the same command again after an interruption and it goes on from the last checkpoint.

    Example: `gpt2flow run configs/demo.yaml --data.source my-texts/ --train.steps 300`

    Parameters
    ----------
    config
        YAML file, or the name of a ready-made one (demo, shakespeare-char, gpt2-124m, gpt2-355m, gpt2-774m, gpt2-1558m).
    """
    loaded = load_config(config, settings.model_dump(exclude_unset=True))
    check_sources(loaded.data)
    _train_and_show(loaded)


@app.command
def plan(config: Path, /, *, price_per_hour: float | None = None, settings: Overrides = RunSettings()) -> None:
    """Say before a run what it takes: memory, the batch that fits, disk, time, cost. The exit code is 2 if it does not fit.

    Example: `gpt2flow plan configs/gpt2-124m.yaml --train.memory_limit 6GB --price_per_hour 2.5`

    Parameters
    ----------
    config
        YAML file, or the name of a ready-made one.
    price_per_hour
        What an hour of this machine costs.
    """
    loaded = load_config(config, settings.model_dump(exclude_unset=True))
    print(f"gpt2flow {version('gpt2flow')}, plan for '{loaded.name}': trying out updates of small models ...", flush=True)
    Workspace.current().create()  # before Prefect is imported, which warns where its home cannot be made
    from flows.pages.plan import print_plan
    from tasks.plan_run import plan_run

    made = plan_run(loaded)
    print_plan(Console(highlight=False), made, price_per_hour)
    if not made.fits:
        sys.exit(2)


@app.command
def resume(run: str, /, *, settings: Overrides = RunSettings()) -> None:
    """Go on with a run that was stopped, killed or has failed, with the config it was started with.

    Settings that leave it the same run may be changed, such as --train.processes, --train.checkpoint_every, --evaluate.every.

    Example: `gpt2flow resume demo --train.processes 2`

    Parameters
    ----------
    run
        The run's id or name; the latest one of that name.
    """
    from tasks.runs.run_control import config_to_resume

    _train_and_show(config_to_resume(run, settings.model_dump(exclude_unset=True)))


@app.command
def report(run: str | None = None, /, *, all: bool = False, output: Path | None = None) -> None:
    """Write one HTML page about a run: curves, figures, samples and lens through time, settings, how to make it again.

    With --all it is about the whole workspace. It needs no network, so it can be sent to somebody. Every evaluation and the
    end of a run write that run's page too.

    Example: `gpt2flow report demo --output demo.html`

    Parameters
    ----------
    run
        The run's id or name; the latest one of that name.
    all
        Instead of one run: all runs, versions, decisions and nights of the workspace, and what was told.
    output
        File to write; report.html in the run's folder, or in the workspace, unless given.
    """
    if all == (run is not None):
        raise UserError("Name a run, such as demo, or give --all: gpt2flow runs lists what there is.")
    if run is None:
        from tasks.monitoring.overview import write_overview
        from tasks.workspace.databases import prepare_databases

        workspace = Workspace.current().create()
        prepare_databases(workspace)
        print(f"Written: {write_overview(workspace, output)}")
        return
    from tasks.reports.page import write_page
    from tasks.runs.find import find_run

    print(f"Written: {write_page(find_run(Workspace.current(), run), output)}")


@app.command
def stop(run: str, /) -> None:
    """Stop a run: the update under way ends, its checkpoint is saved, and `gpt2flow resume` goes on from there.

    Example: `gpt2flow stop demo`

    Parameters
    ----------
    run
        The run's id or name.
    """
    from tasks.runs.find import find_run
    from tasks.runs.run_control import stop_run

    found = find_run(Workspace.current(), run)
    stop_run(found)
    print(f"Run {found.id} has stopped; gpt2flow resume {found.id} goes on from its last checkpoint.")


@app.command
def runs(*, reconcile: bool = False, sync: bool = False) -> None:
    """List the runs: state, step, loss, validation loss, registered version.

    Example: `gpt2flow runs --sync`

    Parameters
    ----------
    reconcile
        First tell MLflow how runs ended that were killed, with the figures that it missed; every start of a run does so too.
    sync
        First compare all runs with MLflow and deliver whatever it lacks.
    """
    from flows.pages.runs import print_runs, tell_mlflow

    if reconcile or sync:
        tell_mlflow(Console(), everything=sync)
    print_runs(Console())


@app.command
def checkpoints(run: str, /, *, verify: bool = False, prune: bool = False, pin: int | None = None) -> None:
    """List a run's checkpoints: step, time, size, validation loss, why each is kept.

    Example: `gpt2flow checkpoints demo --verify`

    Parameters
    ----------
    run
        The run's id or name.
    verify
        Read every file and say which checkpoints are damaged; the exit code is 1 if one is.
    prune
        Remove what the run's settings give no reason to keep.
    pin
        Keep this step's checkpoint for ever.
    """
    from flows.pages.checkpoints import print_checkpoints
    from tasks.runs.checkpoints import pin_checkpoint, prune_checkpoints
    from tasks.runs.find import find_run

    found = find_run(Workspace.current(), run)
    if pin is not None:
        pin_checkpoint(found, pin)
    if prune:
        print(f"Removed: {', '.join(str(gone.step) for gone in prune_checkpoints(found)) or 'nothing'}")
    if not print_checkpoints(Console(), found, verify):
        sys.exit(1)


def _train_and_show(config: RunConfig) -> None:
    result = fine_tune(config)
    from flows.pages.summary import print_summary

    print_summary(result)


def fine_tune(config: RunConfig) -> RunResult:
    """Train as the config says, with Prefect's server and what was left by killed runs looked after first."""
    with ready_to_train(f"run '{config.name}'"):
        from flows.finetune import finetune

        return finetune(config)
