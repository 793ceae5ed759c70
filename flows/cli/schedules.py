"""Verbs about runs that start by themselves. Heavy libraries are imported inside them."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from cyclopts.validators import Number
from rich.console import Console

from configs.loading import load_config
from configs.schema import RunConfig, RunSettings
from flows.cli.app import Overrides, app
from flows.cli.prefect_start import prefect_starting
from gpt2core.text.sources import check_sources
from tasks.servers.prefect_server import naming_a_lost_server
from tasks.workspace.folders import Workspace


@app.command
def up(
    *,
    detach: bool = False,
    mlflow_port: int = 5000,
    prefect_port: int = 4200,
    host: str = "127.0.0.1",
    unprotected: bool = False,
    at_once: Annotated[int, Parameter(validator=Number(gte=1))] = 1,
) -> None:
    """Start Prefect's and MLflow's servers and the worker that takes what is due, and keep them alive until Ctrl-C.

    Ctrl-C stops everything; what trains saves a checkpoint first and goes on at the next `gpt2flow up`.

    Example: `gpt2flow up --detach`

    Parameters
    ----------
    detach
        Return when they are up; `gpt2flow down` stops them.
    mlflow_port
        Port of the MLflow page.
    prefect_port
        Port of the Prefect page.
    host
        Address that the servers listen on. Where others reach it, MLFLOW_AUTH_ADMIN_PASSWORD and PREFECT_SERVER_API_AUTH_STRING
        must be set.
    unprotected
        Let others in without a password.
    at_once
        Evaluations of checkpoints at the same time.
    """
    from tasks.scheduling.supervisor import bring_up, bring_up_detached
    from tasks.servers.pages import Listening

    listening = Listening(mlflow_port, prefect_port, host, unprotected)
    if not detach:
        bring_up(listening, at_once)
        return
    for name, address in bring_up_detached(listening, at_once).items():
        print(f"  {name:<8} {address or 'takes nights and evaluations'}")
    print("gpt2flow down stops everything.")


@app.command
def down() -> None:
    """Stop what `gpt2flow up` has started; what trains saves a checkpoint first.

    Example: `gpt2flow down`
    """
    from tasks.scheduling.supervisor import bring_down

    bring_down()
    print("Everything is stopped.")


@app.command
def nightly(config: Path, /, *, settings: Overrides = RunSettings()) -> None:
    """Make a night's run now: where CONFIG's text is new, train from the champion on and ask for promotion.

    Example: `gpt2flow nightly configs/demo.yaml --data.source my-texts/`

    Parameters
    ----------
    config
        YAML file, or the name of a ready-made one.
    """
    loaded = _load(config, settings)
    print(f"gpt2flow {version('gpt2flow')}, night of '{loaded.name}': starting PyTorch, Prefect and MLflow ...", flush=True)
    with prefect_starting(Workspace.current().create()):
        from flows.nightly import nightly as nightly_flow
    with naming_a_lost_server():
        nightly_flow(loaded)


@app.command
def deploy(
    config: Path,
    /,
    *,
    cron: str | None = None,
    every: str | None = None,
    timezone: str | None = None,
    on_event: str | None = None,
    settings: Overrides = RunSettings(),
) -> None:
    """Let CONFIG train by itself while `gpt2flow up` runs: by --cron or --every, on an event, or on `gpt2flow trigger`.

    The same command again changes the deployment of that name.

    Example: `gpt2flow deploy configs/demo.yaml --data.source my-texts/ --cron "0 3 * * *" --timezone Europe/Berlin`

    Parameters
    ----------
    config
        YAML file, or the name of a ready-made one.
    cron
        Times as cron says them: "0 3 * * *" is three o'clock every day.
    every
        Time from one start to the next, such as 6h, instead of cron.
    timezone
        Time zone that --cron is meant in.
    on_event
        Name of an event in Prefect that begins a night too, once none has come for `--schedule.settle`.
    """
    given = {"cron": cron, "every": every, "timezone": timezone, "on_event": on_event}
    schedule = {name: value for name, value in given.items() if value is not None}
    loaded = _load(config, settings, schedule)
    print(f"gpt2flow {version('gpt2flow')}, deploying '{loaded.name}' ...", flush=True)
    with prefect_starting(Workspace.current().create()):
        from flows.nightly import nightly as nightly_flow
        from flows.pages.deployments import print_deployments
        from tasks.scheduling.deployments import deploy_night

    deploy_night(nightly_flow, loaded)
    print_deployments(Console())


@app.command
def deployments() -> None:
    """List what trains by itself: schedule, next start, how the last night ended, whether a worker is there.

    Example: `gpt2flow deployments`
    """
    _start_prefect()
    from flows.pages.deployments import print_deployments

    print_deployments(Console())


@app.command
def pause(name: str, /, *, resume: bool = False) -> None:
    """Let a deployment start nothing by itself until `--resume`; what trains goes on.

    Example: `gpt2flow pause demo`

    Parameters
    ----------
    name
        The deployment's name, which is its config's.
    resume
        Let it start by itself again.
    """
    _start_prefect()
    from tasks.scheduling.deployments import pause as pause_deployment

    pause_deployment(name, not resume)
    print(f"'{name}' {'starts by itself again' if resume else f'starts nothing until gpt2flow pause {name} --resume'}.")


@app.command
def trigger(name: str, /) -> None:
    """Let a deployment's night begin now, beside its schedule.

    Example: `gpt2flow trigger demo`

    Parameters
    ----------
    name
        The deployment's name, which is its config's.
    """
    _start_prefect()
    from tasks.scheduling.deployments import trigger as trigger_deployment

    print(f"Flow run '{trigger_deployment(name).name}' begins as soon as a worker is free (gpt2flow up has one).")


@app.command
def undeploy(name: str, /) -> None:
    """Remove a deployment. Its runs, models and nights stay, and what trains goes on.

    Example: `gpt2flow undeploy demo`

    Parameters
    ----------
    name
        The deployment's name, which is its config's.
    """
    _start_prefect()
    from tasks.scheduling.deployments import undeploy as remove_deployment

    remove_deployment(name)
    print(f"'{name}' starts nothing any more.")


@app.command
def watch(folder: Path, /, *, settle: Annotated[float, Parameter(validator=Number(gte=0.1))] = 30.0) -> None:
    """Trigger the deployments that read FOLDER whenever files in it have changed, until Ctrl-C.

    Example: `gpt2flow watch my-texts/ --settle 60`

    Parameters
    ----------
    folder
        The folder with the text.
    settle
        Seconds without a further change that are waited for, so that many changes start one night.
    """
    _start_prefect()
    from tasks.scheduling.watching import watch_folder

    watch_folder(folder, settle)


@app.command
def worker(*, at_once: Annotated[int, Parameter(validator=Number(gte=1))] = 1) -> None:
    """Take what is due until Ctrl-C: nights of deployments, and evaluations of runs that say `--evaluate.where worker`.

    `gpt2flow up` has one. On another machine it needs the workspace (GPT2FLOW_HOME, on a disk that both see) and Prefect's
    server (PREFECT_API_URL, for both).

    Example: `gpt2flow worker --at_once 2`

    Parameters
    ----------
    at_once
        Evaluations at the same time, each in a process of its own.
    """
    _start_prefect()
    from flows.work import work_until_stopped

    work_until_stopped(at_once)


def _load(config: Path, settings: RunSettings, schedule: dict[str, str] | None = None) -> RunConfig:
    overrides = settings.model_dump(exclude_unset=True)
    if schedule:
        overrides["schedule"] = {**overrides.get("schedule", {}), **schedule}
    loaded = load_config(config, overrides)
    check_sources(loaded.data)
    return loaded


def _start_prefect() -> None:
    """With the workspace's own server, or for the time of one command."""
    with prefect_starting(Workspace.current().create()):
        import prefect  # noqa: F401
