"""An application behind a real server, in a thread of the test's own process."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn
from fastapi import FastAPI

from tasks.servers.server_process import free_port


@contextmanager
def served(application: FastAPI, port: int) -> Iterator[str]:
    """Its address; `port` or one of those that follow."""
    found = free_port(port)
    assert found is not None
    server = uvicorn.Server(uvicorn.Config(application, "127.0.0.1", found, log_level="warning"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.01)
    yield f"http://127.0.0.1:{found}"
    server.should_exit = True
    thread.join(60)
    assert not thread.is_alive()
