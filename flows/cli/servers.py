"""Verbs about servers and the machine. Heavy libraries are imported inside them."""

from __future__ import annotations

import sys
from importlib.metadata import version
from typing import Annotated

from cyclopts import Parameter
from cyclopts.validators import Number

from flows.cli.app import app
from flows.cli.prefect_start import prefect_starting
from tasks.workspace.folders import Workspace


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
    from tasks.servers.dashboard import serve_dashboard

    serve_dashboard(mlflow_port, prefect_port)


@app.command
def worker(*, at_once: Annotated[int, Parameter(validator=Number(gte=1))] = 1) -> None:
    """Evaluate checkpoints of runs that say `--evaluate.where worker`, while they train on, until Ctrl-C.

    On another machine it needs the run's workspace (GPT2FLOW_HOME, on a disk that both see) and Prefect's server
    (PREFECT_API_URL, for both).

    Example: `gpt2flow worker --at_once 2`

    Parameters
    ----------
    at_once
        Evaluations at the same time, each in a process of its own.
    """
    print(f"gpt2flow {version('gpt2flow')}, worker: starting PyTorch and Prefect ...", flush=True)
    with prefect_starting(Workspace.current().create()):
        from flows.evaluate_checkpoint import serve_evaluations
    serve_evaluations(at_once)


@app.command
def doctor() -> None:
    """Say what is installed, what the machine offers and what is missing.

    Example: `gpt2flow doctor`
    """
    from flows.cli.doctor import examine, print_findings

    if not print_findings(examine()):
        sys.exit(1)
