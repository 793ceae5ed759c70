"""The application on an address, until a signal: where it listens, who may ask, what a caller types."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from socket import socket

import uvicorn

from configs.errors import UserError
from tasks.servers.protection import require_protection
from tasks.servers.server_process import free_port, web_address
from tasks.serving.application import make_application
from tasks.serving.served_model import ServedModel
from tasks.terminal.console import begin, console, say
from tasks.terminal.stop_signals import Interrupted, finishing

KEY = "GPT2FLOW_KEY"
"""Environment variable with the key that whoever asks must bear; unset, nobody needs one."""


def serve_model(reference: str | None, host: str, port: int, weights: str = "auto", unprotected: bool = False) -> None:
    """Serve the model called `reference` (see `resolve_model`) until Ctrl-C or SIGTERM; requests under way are answered.

    Raises UserError for an unknown model, where no port is free, and for an address that others reach without a key.
    """
    key = os.environ.get(KEY, "")
    require_protection(host, bool(key) or unprotected, "use the model", f"set {KEY} to a secret that callers send")
    free = free_port(port)
    if free is None:
        raise UserError(f"Port {port} and those that follow are taken: give a free one with --port.")
    begin("model", "loading")
    served = ServedModel(reference, weights)
    config = uvicorn.Config(make_application(served, key), host, free, log_level="warning", server_header=False)
    server = AnnouncedServer(config, served.current().name, key)
    with suppress(Interrupted), finishing(server.ask_to_stop):
        server.run()


class AnnouncedServer(uvicorn.Server):
    """Says when it is ready, and leaves signals to gpt2flow."""

    def __init__(self, config: uvicorn.Config, model: str, key: str) -> None:
        super().__init__(config)
        self._model, self._key = model, key

    def ask_to_stop(self) -> None:
        """Answer what has come in, then return from `run`."""
        self.should_exit = True

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """They are taken by `finishing`."""
        yield

    async def startup(self, sockets: list[socket] | None = None) -> None:
        """Listen, then say so with a line that works."""
        await super().startup(sockets)
        if self.started:
            url = f"{web_address(self.config.host, self.config.port)}/v1/completions"
            bearer = f'-H "Authorization: Bearer ${KEY}" ' if self._key else ""
            body = shlex.quote('{"prompt": "Once upon a time", "max_tokens": 40}')
            say("ready", f"{self._model} answers; Ctrl-C ends it")
            console.print(f"   curl {bearer}-H 'Content-Type: application/json' {url} -d {body}", soft_wrap=True, markup=False)
