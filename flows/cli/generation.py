"""The verb that completes a file of prompts. Heavy libraries are imported inside it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from configs.cluster import HERE, ClusterSettings
from configs.errors import UserError
from configs.generation import BatchSettings
from flows.cli.app import app
from flows.cli.prefect_start import prefect_starting
from gpt2core.machine.durable import require_place
from tasks.servers.prefect_server import naming_a_lost_server
from tasks.workspace.folders import Workspace


@app.command
def generate(
    prompts: str,
    out: Path,
    /,
    *,
    model: str | None = None,
    settings: Annotated[BatchSettings, Parameter(name="*")] = BatchSettings(),
    cluster: ClusterSettings = HERE,
) -> None:
    """Complete all prompts of a JSONL, CSV or Parquet file into a Parquet file.

    It holds prompt, completion, log-probability, ending, model version and seed. Run the same command again after an
    interruption and it goes on at the shard where it was, with the version that an alias stood for when it began.

    Example: `gpt2flow generate prompts.jsonl answers.parquet --model models:/demo@champion --max_new_tokens 40`

    Parameters
    ----------
    prompts
        Table with a prompt in each row; the column is found and said.
    out
        Parquet file to write. OUT.parts beside it holds the shards until all are there.
    model
        A run's id or name, a folder of weights, or models:/NAME@ALIAS; the latest run unless given.
    """
    if settings.model_fields_set & {"include_prefix", "log_probabilities", "alternatives"}:
        raise UserError(
            "generate always writes prompts and log-probabilities, and no others: leave include_prefix, log_probabilities and "
            "alternatives out."
        )
    require_place(out)
    print("gpt2flow: starting PyTorch and Prefect ...", flush=True)
    with prefect_starting(Workspace.current().create()):
        from flows.generate import generate as generate_flow
    with naming_a_lost_server():
        generate_flow(prompts, out.absolute(), model, settings, cluster)
