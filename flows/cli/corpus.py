"""Verbs about the text and its token store. Heavy libraries are imported inside them."""

from __future__ import annotations

import sys
from importlib.metadata import version
from pathlib import Path

from configs.loading import load_config
from configs.schema import RunSettings
from flows.cli.app import Overrides, app
from flows.cli.prefect_start import prefect_starting
from gpt2core.text.sources import check_sources
from tasks.workspace.folders import Workspace


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
    with prefect_starting(Workspace.current().create()):
        from flows.encode import encode as encode_flow
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
    from tasks.workspace.databases import prepare_databases

    prepare_databases(Workspace.current().create())
    from flows.encode import show_data, verify_data

    if not verify:
        show_data(loaded, price)
    elif not verify_data(loaded):
        sys.exit(1)
