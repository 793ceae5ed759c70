"""Verbs about servers and the machine. Heavy libraries are imported inside them."""

from __future__ import annotations

import sys

from flows.cli.app import app


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
def doctor() -> None:
    """Say what is installed, what the machine offers and what is missing.

    Example: `gpt2flow doctor`
    """
    from flows.cli.doctor import examine, print_findings

    if not print_findings(examine()):
        sys.exit(1)
