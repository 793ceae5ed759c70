"""What comes before a flow: databases, what a killed run left behind, and Prefect's server."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version

from tasks.servers.prefect_server import naming_a_lost_server
from tasks.workspace.folders import Workspace


@contextmanager
def ready_to_train(what: str) -> Iterator[None]:
    """Inside, all is there that trains `what`, and what killed runs left behind is put right; a lost server gets its name."""
    print(f"gpt2flow {version('gpt2flow')}, {what}: starting PyTorch, Prefect and MLflow ...", flush=True)
    workspace = Workspace.current().create()
    with prefect_starting(workspace):
        import flows.finetune  # noqa: F401  # takes seconds
        from tasks.scheduling.recovery import mend_what_died
        from tasks.tracking.reconciliation import reconcile

        reconcile(workspace)
    with naming_a_lost_server():
        mend_what_died(workspace)
        yield


@contextmanager
def prefect_starting(workspace: Workspace) -> Iterator[None]:
    """Prefect's server comes up beside what is done inside (the heavy imports), and answers when the block has ended.

    Prefect must not be imported before: it looks for its home and its server then.
    """
    from tasks.servers.prefect_server import adopt_children, start_prefect_server, stop_orphans, wait_for_prefect
    from tasks.workspace.databases import prepare_databases

    stop_orphans()
    adopt_children()
    prepare_databases(workspace)
    starting = start_prefect_server(workspace)
    yield
    wait_for_prefect(starting)
