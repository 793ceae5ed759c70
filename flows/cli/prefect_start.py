"""What comes before a flow: databases, what a killed run left behind, and Prefect's server."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from tasks.workspace.folders import Workspace


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
