"""Where the processes that torchrun has started on several machines meet, and part.

torchrun's store outlives them all and may hold what earlier ones have left. So it only says where the first process's own is.
"""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from functools import cache, partial

import psutil
import torch.distributed as dist

from configs.errors import UserError
from gpt2core.distributed.launch import Launch
from gpt2core.distributed.messages import Messages, PeerLostError
from tasks.processes.pulse import Pulses, show_pulse

PLACE = "gpt2flow/port"
CONNECTING = timedelta(seconds=5)  # until the place is looked up again
PARTING = 5.0  # seconds in which all hear how the run ended


@cache
def meet(launch: Launch, limit: float) -> Messages:
    """The one connection of this process to the others; whoever is not heard of for `limit` seconds is lost."""
    if interface := _interface_to(launch):
        os.environ.setdefault("GLOO_SOCKET_IFNAME", interface)
    if launch.rank == 0:
        store = _serve(launch)
        return Messages(store, 0, launch.size, Pulses(store, launch.size, limit).ended)
    store, connect = _join(launch, limit)
    show_pulse(connect, launch.rank, limit)
    return Messages(store, launch.rank, launch.size)


def part(messages: Messages, code: int) -> None:
    """Of the first process, when all is done: let the others end with the same exit code."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # by which torchrun would say that another one has ended
    messages.say("end", code=code)
    with suppress(PeerLostError):
        messages.answers(PARTING)


def await_parting(messages: Messages) -> None:
    """Of the others: let the first process end first, since torchrun ends all that are left where one fails."""
    messages.answer()
    deadline = time.monotonic() + PARTING
    with suppress(RuntimeError):
        while time.monotonic() < deadline:
            messages.store.check(["said"])
            time.sleep(0.05)


def _serve(launch: Launch) -> dist.TCPStore:  # type: ignore[name-defined]
    family, _, _, _, (host, *_) = socket.getaddrinfo(launch.address, 0, type=socket.SOCK_STREAM)[0]
    listening = socket.create_server((str(host), 0), family=family)
    port = listening.getsockname()[1]
    store = dist.TCPStore(  # type: ignore[attr-defined]
        str(host), port, launch.size, is_master=True, wait_for_workers=False, master_listen_fd=listening.detach()
    )
    _torchrun_s(launch).set(PLACE, str(port))
    return store


def _join(launch: Launch, limit: float) -> tuple[dist.TCPStore, Callable[[], dist.TCPStore]]:  # type: ignore[name-defined]
    known, deadline = _torchrun_s(launch), time.monotonic() + limit
    while True:
        with suppress(RuntimeError):  # nobody has said where yet, or the one who did is gone
            connect = partial(dist.TCPStore, launch.address, int(known.get(PLACE)), launch.size)  # type: ignore[attr-defined]
            store = connect(timeout=CONNECTING)
            store.set_timeout(timedelta(seconds=limit))
            return store, connect
        if time.monotonic() > deadline:
            raise UserError(
                f"The first process, at {launch.address}, was not reached in {limit:g} s: must the machines name themselves by "
                "an address (torchrun --local-addr), or does a firewall lie between them?"
            )


def _torchrun_s(launch: Launch) -> dist.TCPStore:  # type: ignore[name-defined]
    store = dist.TCPStore(launch.address, launch.port, launch.size)  # type: ignore[attr-defined]
    store.set_timeout(CONNECTING)
    return store


def _interface_to(launch: Launch) -> str:
    """Name of the network interface through which the first process's machine and this one reach each other, if it has one."""
    family, kind, _, _, place = socket.getaddrinfo(launch.address, launch.port, type=socket.SOCK_DGRAM)[0]
    with socket.socket(family, kind) as probe:
        probe.connect(place)  # nothing is sent
        own = str(probe.getsockname()[0])
    found = psutil.net_if_addrs().items()
    return next((name for name, addresses in found if own in [address.address for address in addresses]), "")
