"""The verb that completes a whole file of prompts. Heavy libraries are imported inside it."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from cyclopts.validators import Number

from configs.schema import CompletionSettings
from flows.cli.app import app
from flows.cli.prefect_start import prefect_starting
from gpt2core.machine.durable import require_place
from tasks.servers.prefect_server import naming_a_lost_server
from tasks.workspace.folders import Workspace


@app.command
def generate(
    prompts: Path,
    output: Path,
    /,
    *,
    model: str | None = None,
    column: str | None = None,
    shard_rows: Annotated[int, Parameter(validator=Number(gte=1))] = 256,
    settings: Annotated[CompletionSettings, Parameter(name="*")] = CompletionSettings(),
) -> None:
    """Complete every prompt of a file, as a flow of shards: CSV, JSONL, Parquet or a text with a prompt a line.

    The output is Parquet: row, sample, prompt, completion, tokens, log_probability, ending, model, seed. Run the same command
    again after an interruption and it goes on with the shards that are not done. Completions are those of `gpt2flow sample`.

    Example: `gpt2flow generate prompts.jsonl completions.parquet --model models:/demo@champion --max_new_tokens 100`

    Parameters
    ----------
    prompts
        The file with the prompts.
    output
        The Parquet file to write.
    model
        A run's id or name, a folder of weights, or models:/NAME@ALIAS; the latest run unless given.
    column
        Column or field that holds the prompts; found and said unless given.
    shard_rows
        Prompts in a shard, which is what an interruption costs at most.
    """
    require_place(output)
    print(f"gpt2flow {version('gpt2flow')}, generate: starting PyTorch, Prefect and MLflow ...", flush=True)
    with prefect_starting(Workspace.current().create()):
        from flows.generate import generate as generate_flow
    with naming_a_lost_server():
        generate_flow(prompts.absolute(), output.absolute(), model, settings, column, shard_rows)
