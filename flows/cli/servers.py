"""Verbs about servers and the machine. Heavy libraries are imported inside them."""

from __future__ import annotations

import sys
from typing import Literal

from flows.cli.app import app


@app.command
def dashboard(*, mlflow_port: int = 5000, prefect_port: int = 4200, host: str = "127.0.0.1", unprotected: bool = False) -> None:
    """Open the MLflow and Prefect pages until Ctrl-C.

    Example: `gpt2flow dashboard --mlflow_port 5001`

    Parameters
    ----------
    mlflow_port
        Port of the MLflow page.
    prefect_port
        Port of the Prefect page.
    host
        Address to listen on. Where others reach it, MLFLOW_AUTH_ADMIN_PASSWORD and PREFECT_SERVER_API_AUTH_STRING must be set.
    unprotected
        Let others in without a password.
    """
    from tasks.servers.dashboard import serve_dashboard
    from tasks.servers.pages import Listening

    serve_dashboard(Listening(mlflow_port, prefect_port, host, unprotected))


@app.command
def serve(
    model: str | None = None,
    /,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    weights: Literal["auto", "float32", "bfloat16", "int8"] = "auto",
    unprotected: bool = False,
) -> None:
    """Serve a model over HTTP as OpenAI's /v1/completions, streaming included, until Ctrl-C.

    A registered model called by an alias is followed: when the champion moves, the next request is answered by the new one.

    Example: `gpt2flow serve models:/demo@champion --port 8001`

    Parameters
    ----------
    model
        A run's id or name, a folder of weights, or models:/NAME@ALIAS; the latest run unless given.
    host
        Address to listen on. Where others reach it, the environment variable GPT2FLOW_KEY must hold a key that they send.
    port
        Port to listen on, or the first free one of those that follow.
    weights
        Numbers in which the weights are kept, as in `gpt2flow sample`.
    unprotected
        Serve others without a key.
    """
    print("gpt2flow: loading PyTorch and the model ...", flush=True)
    from tasks.serving.server import serve_model

    serve_model(model, host, port, weights, unprotected)


@app.command
def play(
    model: str | None = None,
    /,
    *,
    port: int = 7860,
    weights: Literal["auto", "float32", "bfloat16", "int8"] = "auto",
) -> None:
    """Open a page on 127.0.0.1 on which a model is tried, until Ctrl-C.

    It goes on with a prompt token by token, each coloured by its probability, with the alternatives on hover; answers chat
    lines; shows what every layer would say; and lets champion and candidate write the same, blind, for votes that are logged to
    MLflow. Nothing is fetched from anywhere.

    Example: `gpt2flow play models:/demo@champion`

    Parameters
    ----------
    model
        A run's id or name, a folder of weights, or models:/NAME@ALIAS; the latest run unless given.
    port
        Port to listen on, or the first free one of those that follow.
    weights
        Numbers in which the weights are kept, as in `gpt2flow sample`.
    """
    print("gpt2flow: loading PyTorch and the model ...", flush=True)
    from tasks.play.server import play_model

    play_model(model, port, weights)


@app.command
def doctor() -> None:
    """Say what is installed, what the machine offers and what is missing.

    Example: `gpt2flow doctor`
    """
    from flows.cli.doctor import examine, print_findings

    if not print_findings(examine()):
        sys.exit(1)
