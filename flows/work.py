"""The worker as a command: it offers evaluations and questions, takes what is due, and stops on a signal."""

from __future__ import annotations

import os
from contextlib import suppress

from flows.ask import ask_a_person
from flows.evaluate_checkpoint import evaluate_checkpoint
from tasks.evaluation import deployment as evaluations
from tasks.promotion import deployment as questions
from tasks.scheduling.deployments import offer
from tasks.scheduling.worker import Worker
from tasks.terminal.console import say
from tasks.terminal.stop_signals import Interrupted, finishing
from tasks.workspace.folders import Workspace


def work_until_stopped(at_once: int) -> None:
    """Take nights, and so many evaluations at once, until a signal; then what trains is stopped with its checkpoint."""
    workspace = Workspace.current()
    worker = Worker(workspace, at_once)
    offer(evaluate_checkpoint, evaluations.DEPLOYMENT)
    offer(ask_a_person, questions.DEPLOYMENT)
    say("worker", f"takes nights and evaluations of {workspace.root} from {os.environ.get('PREFECT_API_URL')}; Ctrl-C ends it")
    with suppress(Interrupted), finishing(worker.request_stop):
        worker.work()
