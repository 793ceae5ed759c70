"""The front door: every verb of `gpt2flow`. Heavy libraries are imported inside the verbs that need them."""

from __future__ import annotations

import sys
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

from cyclopts import App, CycloptsError, Parameter, UnusedCliTokensError, ValidationError
from pydantic import ValidationError as PydanticError
from rich.console import Console

from configs.errors import UserError
from configs.loading import describe_errors, load_config
from configs.schema import RunConfig, RunSettings, SampleSettings
from gpt2core.sources import check_sources
from tasks.workspace import Workspace

app = App(
    name="gpt2flow",
    help="Fine-tune GPT-2 on your own text as a pipeline: run, kill, resume, compare, register.",
    version=lambda: version("gpt2flow"),
    help_format="markdown",
    default_parameter=Parameter(name_transform=str, negative_iterable=""),
)
LENS_DEFAULTS = SampleSettings(max_new_tokens=12, temperature=0.0)
Overrides = Annotated[RunSettings, Parameter(name="*")]


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
    _fine_tune(loaded)


@app.command
def resume(run: str, /) -> None:
    """Go on with a run that was stopped, killed or has failed, with the config it was started with.

    Example: `gpt2flow resume demo`

    Parameters
    ----------
    run
        The run's id or name; the latest one of that name.
    """
    from tasks.run_control import config_to_resume

    _fine_tune(config_to_resume(run))


@app.command
def stop(run: str, /) -> None:
    """Stop a run: the update under way ends, its checkpoint is saved, and `gpt2flow resume` goes on from there.

    Example: `gpt2flow stop demo`

    Parameters
    ----------
    run
        The run's id or name.
    """
    from tasks.run_control import stop_run
    from tasks.run_folder import find_run

    found = find_run(Workspace.current(), run)
    stop_run(found)
    print(f"Run {found.id} has stopped; gpt2flow resume {found.id} goes on from its last checkpoint.")


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
    from flows.checkpoints_table import print_checkpoints
    from tasks.checkpoints import pin_checkpoint, prune_checkpoints
    from tasks.run_folder import find_run

    found = find_run(Workspace.current(), run)
    if pin is not None:
        pin_checkpoint(found, pin)
    if prune:
        print(f"Removed: {', '.join(str(gone.step) for gone in prune_checkpoints(found)) or 'nothing'}")
    if not print_checkpoints(Console(), found, verify):
        sys.exit(1)


@app.command
def encode(config: Path, /, *, settings: Overrides = RunSettings()) -> None:
    """Make or update the token store of CONFIG's text and report on it; only what is new is encoded.

    Example: `gpt2flow encode configs/demo.yaml --data.source my-texts/`

    Parameters
    ----------
    config
        YAML file, or the name of a ready-made one.
    """
    loaded = load_config(config, settings.model_dump(exclude_unset=True))
    check_sources(loaded.data)
    print(f"gpt2flow {version('gpt2flow')}, encoding for '{loaded.name}': starting Prefect and MLflow ...", flush=True)
    from flows.encode import encode as encode_flow
    from tasks.databases import prepare_databases
    from tasks.workspace import Workspace

    prepare_databases(Workspace.current().create())
    encode_flow(loaded)


@app.command
def data(config: Path, /, *, verify: bool = False, price: float | None = None, settings: Overrides = RunSettings()) -> None:
    """Show what the token store of CONFIG's text holds: sizes, lengths, duplicates, leaks, time for an epoch.

    Example: `gpt2flow data configs/demo.yaml --verify`

    Parameters
    ----------
    config
        YAML file, or the name of a ready-made one.
    verify
        Check hashes, page checksums, offsets, ids and splits instead, and name what is damaged (exit code 1).
    price
        What an hour of this machine costs, for the estimate of an epoch.
    """
    loaded = load_config(config, settings.model_dump(exclude_unset=True))
    check_sources(loaded.data)
    from tasks.databases import prepare_databases
    from tasks.workspace import Workspace

    prepare_databases(Workspace.current().create())
    from flows.encode import show_data, verify_data

    if not verify:
        show_data(loaded, price)
    elif not verify_data(loaded):
        sys.exit(1)


@app.command
def sample(
    *prompts: str, model: str | None = None, settings: Annotated[SampleSettings, Parameter(name="*")] = SampleSettings()
) -> None:
    """Complete prompts with a trained model.

    Example: `gpt2flow sample --model models:/demo@candidate "The function returns " --temperature 0.7`

    Parameters
    ----------
    prompts
        Texts to complete; without one the model starts from nothing.
    model
        A run's id or name, a folder of weights, or models:/NAME@ALIAS; the latest run unless given.
    """
    print("gpt2flow: loading PyTorch and the model ...", file=sys.stderr, flush=True)
    from tasks.sample import complete

    for text in complete(model, list(prompts) or [""], settings):
        print(text, flush=True)


@app.command
def lens(
    prompt: str,
    *,
    model: str | None = None,
    output: Path = Path("lens"),
    watch: list[str] | None = None,
    ecco_compat: bool = False,
    settings: Annotated[SampleSettings, Parameter(name="*")] = LENS_DEFAULTS,
) -> None:
    """Show what every layer of a model would say after a prompt, as a table, a page and pictures.

    Example: `gpt2flow lens "The keys to the cabinet" --model demo --watch " is" --watch " are"`

    Parameters
    ----------
    prompt
        Text to look at.
    model
        A run's id or name, a folder of weights, or models:/NAME@ALIAS; the latest run unless given.
    output
        Folder for lens.html, lens.json and the PNG pictures.
    watch
        Single tokens whose ranks after the prompt are shown.
    ecco_compat
        Leave the final norm out below the last layer, as Ecco does.
    """
    print("gpt2flow: loading PyTorch and the model ...", file=sys.stderr, flush=True)
    from flows.lens_table import print_reading
    from tasks.lens import look, write_reading

    reading = look(model, prompt, settings, watch or [], ecco_compat)
    print_reading(reading)
    print("Written:", ", ".join(str(path) for path in write_reading(reading, output, f"The lens: {model or 'latest run'}")))


@app.command
def dashboard(*, mlflow_port: int = 5000, prefect_port: int = 4200) -> None:
    """Open the MLflow and Prefect pages on 127.0.0.1 until Ctrl-C.

    Example: `gpt2flow dashboard --mlflow_port 5001`

    Parameters
    ----------
    mlflow_port
        Port of the MLflow page.
    prefect_port
        Port of the Prefect page.
    """
    from flows.dashboard import serve_dashboard

    serve_dashboard(mlflow_port, prefect_port)


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
    from flows.runs import print_runs, tell_mlflow

    if reconcile or sync:
        tell_mlflow(Console(), everything=sync)
    print_runs(Console())


@app.command
def doctor() -> None:
    """Say what is installed, what the machine offers and what is missing.

    Example: `gpt2flow doctor`
    """
    from flows.doctor import examine, print_findings

    if not print_findings(examine()):
        sys.exit(1)


def _fine_tune(config: RunConfig) -> None:
    print(f"gpt2flow {version('gpt2flow')}, run '{config.name}': starting PyTorch, Prefect and MLflow ...", flush=True)
    from tasks.databases import prepare_databases
    from tasks.orphans import adopt_children, stop_orphans
    from tasks.prefect_server import start_prefect_server, wait_for_prefect

    workspace = Workspace.current().create()  # before Prefect is imported, which looks for its home
    stop_orphans()
    adopt_children()
    prepare_databases(workspace)
    starting = start_prefect_server(workspace)
    from flows.finetune import finetune
    from flows.summary import print_summary
    from tasks.reconciliation import reconcile

    reconcile(workspace)
    wait_for_prefect(starting)
    print_summary(finetune(config))


def main() -> None:
    """Entry point: mistakes become one sentence and exit code 2, signals become 130 and 143."""
    from tasks.stop_signals import advised, received, stopping_on_signals

    try:
        with stopping_on_signals():
            app(exit_on_error=False, print_error=False)
    except (UserError, CycloptsError) as error:
        print(f"gpt2flow: {_sentence(error)}", file=sys.stderr)
        sys.exit(2)
    except BaseException:
        if (number := received()) is None:
            raise
        if sys.argv[1:2] in (["run"], ["resume"]) and not advised():
            print("gpt2flow: stopped before training; the same command goes on from there", file=sys.stderr)
        sys.exit(128 + number)


def _sentence(error: UserError | CycloptsError) -> str:
    if isinstance(error, ValidationError) and isinstance(error.__cause__, PydanticError):
        return "\n".join(describe_errors(error.__cause__, lambda keys: f"--{'.'.join(keys)}"))
    if isinstance(error, UnusedCliTokensError):
        return f"{' '.join(error.unused_tokens or [])} belongs to no option: write a switch as --option=false, quote texts."
    return str(error)


if __name__ == "__main__":
    main()
