"""A worker: takes the evaluations of runs whose config says `evaluate.where: worker`, here or on another machine."""

from __future__ import annotations

import asyncio
import os
from contextlib import suppress

from prefect import flow
from prefect.deployments.runner import RunnerDeployment
from prefect.runner import Runner
from prefect.types.entrypoint import EntrypointType

from configs.errors import UserError
from tasks.evaluation.by_worker import DEPLOYMENT, FLOW
from tasks.evaluation.checkpoint import leave_row
from tasks.runs.find import find_run
from tasks.terminal.console import say, warn
from tasks.workspace.folders import Workspace

LOOK_INTERVAL = 2.0  # seconds


@flow(name=FLOW, flow_run_name="{run}-step-{step}", persist_result=False)
def evaluate_checkpoint(run: str, step: int) -> None:
    """Evaluate a checkpoint of a run in this workspace; the figures wait in its folder until the run takes them."""
    try:
        leave_row(find_run(Workspace.current(), run), step)
    except UserError as error:
        warn("evaluation", f"{run}, step {step}: {error}")
        raise
    say("evaluation", f"{run}, step {step}")


def serve_evaluations(at_once: int) -> None:
    """Take evaluations from Prefect's server until Ctrl-C or SIGTERM, so many at once."""
    runner = Runner(limit=at_once, query_seconds=LOOK_INTERVAL, pause_on_shutdown=False)
    runner.add_deployment(
        RunnerDeployment.from_flow(evaluate_checkpoint, DEPLOYMENT, entrypoint_type=EntrypointType.MODULE_PATH)
    )
    where, server = Workspace.current().root, os.environ.get("PREFECT_API_URL")
    say("worker", f"takes evaluations of the runs in {where} from {server}; Ctrl-C ends it")
    with suppress(KeyboardInterrupt):
        asyncio.run(runner.start())
