"""An application on an address, until a signal: where it listens, who may ask, what a caller types."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from socket import socket

import uvicorn
from fastapi import FastAPI

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
    free = require_free_port(port)
    begin("model", "loading")
    served = ServedModel(reference, weights)

    def announce(address: str) -> None:
        bearer = f'-H "Authorization: Bearer ${KEY}" ' if key else ""
        body = shlex.quote('{"prompt": "Once upon a time", "max_tokens": 40}')
        asked = f"{address}/v1/completions -d {body}"
        say("ready", f"{served.current().name} answers; Ctrl-C ends it")
        console.print(f"   curl {bearer}-H 'Content-Type: application/json' {asked}", soft_wrap=True, markup=False)

    run_until_signal(make_application(served, key), host, free, announce)


def require_free_port(port: int) -> int:
    """The port or the first free one of those that follow; raises UserError where none is."""
    if (free := free_port(port)) is None:
        raise UserError(f"Port {port} and those that follow are taken: give a free one with --port.")
    return free


def run_until_signal(application: FastAPI, host: str, port: int, announce: Callable[[str], None]) -> None:
    """Serve until Ctrl-C or SIGTERM; `announce` gets the address as soon as it is listened on."""
    config = uvicorn.Config(application, host, port, log_level="warning", server_header=False)
    server = _AnnouncedServer(config, announce)
    with suppress(Interrupted), finishing(server.ask_to_stop, "when what is being computed is answered"):
        server.run()


class _AnnouncedServer(uvicorn.Server):
    """Says when it is ready, and leaves signals to gpt2flow."""

    def __init__(self, config: uvicorn.Config, announce: Callable[[str], None]) -> None:
        super().__init__(config)
        self._announce = announce

    def ask_to_stop(self) -> None:
        """Answer what has come in, then return from `run`."""
        self.should_exit = True

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """They are taken by `finishing`."""
        yield

    async def startup(self, sockets: list[socket] | None = None) -> None:
        """Listen, then say so."""
        await super().startup(sockets)
        if self.started:
            self._announce(web_address(self.config.host, self.config.port))
