"""The flow that a worker runs for configs that say `evaluate.where: worker`, here or on another machine."""

from __future__ import annotations

from prefect import flow

from configs.errors import UserError
from tasks.evaluation.deployment import FLOW
from tasks.runs.find import find_run
from tasks.servers.cancellation import cancellable
from tasks.terminal.console import say, warn
from tasks.workspace.folders import Workspace


@flow(name=FLOW, flow_run_name="{run}-step-{step}", persist_result=False)
def evaluate_checkpoint(run: str, step: int) -> None:
    """Evaluate a checkpoint of a run in this workspace; the figures wait in its folder until the run takes them."""
    from tasks.evaluation.checkpoint import leave_row  # PyTorch, which a worker that only offers this flow does not need

    with cancellable():
        try:
            leave_row(find_run(Workspace.current(), run), step)
        except UserError as error:
            warn("evaluation", f"{run}, step {step}: {error}")
            raise
        say("evaluation", f"{run}, step {step}")
