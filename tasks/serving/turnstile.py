"""Who computes: one request at a time, a bounded number behind it, and nobody for a client that has gone away."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

from anyio import CancelScope
from fastapi import Request
from fastapi.responses import Response

from tasks.serving.refusal import RefusedRequestError

WAITING = 32
"""Requests that may wait while another one is answered."""
CLIENT_CLOSED_REQUEST = 499
"""What logs of web servers call it; nobody reads that answer."""
RequireClient = Callable[[], None]
"""Raises ClientGoneError where nobody waits for the answer any more."""


class ClientGoneError(Exception):
    """Nobody waits for the answer any more."""


class Turnstile:
    """One request computes at a time, since it uses all cores; so many others wait."""

    def __init__(self) -> None:
        self._lock = asyncio.Lock()
        self._here = 0

    def require_place(self) -> None:
        """Raise RefusedRequestError where too many wait already."""
        if self._here > WAITING:
            raise RefusedRequestError("Too many requests wait already: try again in a moment.", status=503)

    @asynccontextmanager
    async def passed(self) -> AsyncIterator[None]:
        """Inside, nobody else computes; raises RefusedRequestError at once where too many wait already."""
        self.require_place()
        self._here += 1
        try:
            async with self._lock:
                yield
        finally:
            self._here -= 1


async def while_wanted(request: Request, work: Callable[[RequireClient], Awaitable[Response]]) -> Response:
    """The answer of `work`, which ends as soon as the client has gone away.

    Where it waits it is cancelled; what computes in a thread calls the function that `work` is given. The body of the request
    must have been read.
    """
    gone = threading.Event()

    def require_client() -> None:
        if gone.is_set():
            raise ClientGoneError

    with CancelScope() as scope, suppress(ClientGoneError):
        watching = asyncio.create_task(_watch(request, gone, scope))
        try:
            return await work(require_client)
        finally:
            watching.cancel()
    return Response(status_code=CLIENT_CLOSED_REQUEST)


async def _watch(request: Request, gone: threading.Event, scope: CancelScope) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
    gone.set()
    scope.cancel()
