"""The page on this machine's own address, until a signal."""

from __future__ import annotations

from tasks.play.application import make_play
from tasks.servers.server_process import HOST
from tasks.serving.served_model import ServedModel
from tasks.serving.server import require_free_port, run_until_signal
from tasks.terminal.console import begin, console, say
from tasks.workspace.databases import prepare_databases
from tasks.workspace.folders import Workspace


def play_model(reference: str | None, port: int, weights: str = "auto") -> None:
    """Serve the page for the model called `reference` (see `resolve_model`) until Ctrl-C or SIGTERM.

    Raises UserError for an unknown model and where no port is free.
    """
    free = require_free_port(port)
    prepare_databases(Workspace.current().create())
    begin("model", "loading")
    served = ServedModel(reference, weights)

    def announce(address: str) -> None:
        say("ready", f"{served.current().name} can be played with; Ctrl-C ends it")
        console.print(f"   {address}", soft_wrap=True, markup=False)

    run_until_signal(make_play(served, weights), HOST, free, announce)
