"""Prefect's page, which shows what lies in the workspace anyway: a server that is away is no reason to stop."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from httpx import HTTPError

from tasks.terminal.console import warn


@contextmanager
def shown_if_served(what: str) -> Iterator[None]:
    """Inside, something is shown in Prefect; where its server does not take it, that is said and the work goes on."""
    try:
        yield
    except HTTPError as error:
        warn("Prefect", f"does not show {what} ({type(error).__name__}): its server is away, and the work goes on")
