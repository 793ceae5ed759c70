"""One at a time may move a model's aliases, whatever machine it is on: a lock in the registry itself.

MLflow has no compare-and-set, but a registered model's name is unique, so whoever creates "lock of NAME" holds it, and renews a
beat in it. A lock whose process is gone, or whose beat stands still, is moved out of the way by renaming it to a name that its
holder's id makes unique, so that of two who break it at once only one succeeds and neither touches a newer lock.
"""

from __future__ import annotations

import getpass
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

import psutil
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from configs.errors import UserError
from tasks.registry.lookup import NOT_A_MODEL

BEAT = 5.0  # seconds between two signs of life
LEASE = 30.0
"""Seconds without a beat after which a holder on another machine counts as gone."""
LOOK = 0.2  # seconds
TOMBSTONE = 3600.0
"""Seconds after which a broken lock is removed: longer than anybody can take to break it."""


@contextmanager
def moving_aliases(client: MlflowClient, model: str, what: str, patience: float) -> Iterator[None]:
    """Hold the model's lock; raises UserError that says who holds it after `patience` seconds."""
    holder = uuid4().hex
    lock = _acquire(client, model, holder, what, patience)
    done = threading.Event()
    beating = threading.Thread(target=_beat, args=(client, lock, done), name="promotion-lock", daemon=True)
    beating.start()
    try:
        yield
    finally:
        done.set()
        beating.join()
        with suppress(MlflowException):  # somebody has broken it, or the server is away; nobody waits longer than LEASE
            if client.get_registered_model(lock).tags.get("holder") == holder:
                client.delete_registered_model(lock)


def who() -> str:
    """The person and the machine."""
    try:
        user = getpass.getuser()
    except (OSError, KeyError):  # no entry for this user id
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"


def now() -> str:
    """In UTC."""
    return datetime.now(UTC).isoformat(timespec="seconds")


TAKEN = ("RESOURCE_ALREADY_EXISTS", "RESOURCE_DOES_NOT_EXIST")
"""What MLflow says of a name that is taken: the second where it was given back while MLflow looked at who has it."""


def _acquire(client: MlflowClient, model: str, holder: str, what: str, patience: float) -> str:
    lock, deadline, watch = f"lock of {model}", time.monotonic() + patience, _Watch()
    tags = {
        NOT_A_MODEL: now(),
        "holder": holder,
        "who": who(),
        "what": what,
        "place": _place(),
        "process": _process(),
    }
    while True:
        try:
            client.create_registered_model(lock, tags=tags, description=f"Held by {who()}: {what}. It goes by itself.")
            return lock
        except MlflowException as error:
            if error.error_code not in TAKEN:
                raise
        held = _read(client, lock)
        if held is None:
            continue
        if watch.is_dead(held):
            _break(client, lock, held["holder"])
        elif time.monotonic() > deadline:
            raise UserError(
                f"The aliases of {model} are being moved by {held['who']} ({held['what']}, process "
                f"{held['process'].split()[0]}, since {held[NOT_A_MODEL]}): try again when that is done."
            )
        else:
            time.sleep(LOOK)


class _Watch:
    """Tells whether the holder of a lock has died: at once on this machine, by its beat on another one."""

    def __init__(self) -> None:
        self._seen: tuple[str, str] | None = None
        self._since = 0.0

    def is_dead(self, held: dict[str, str]) -> bool:
        if held["place"] == _place():
            return held["process"] != _process(int(held["process"].split()[0]))
        if (seen := (held["holder"], held.get("beat", "0"))) != self._seen:
            self._seen, self._since = seen, time.monotonic()
        return time.monotonic() - self._since > LEASE


def _break(client: MlflowClient, lock: str, holder: str) -> None:
    """Out of two who rename it, the second fails: the name is taken, even if a newer lock is there by then."""
    _remove_tombstones(client, lock)
    with suppress(MlflowException):
        client.rename_registered_model(lock, f"{lock}, broken {holder}")


def _remove_tombstones(client: MlflowClient, lock: str) -> None:
    for broken in client.search_registered_models(f"name LIKE '{lock}, broken %'"):
        begun = datetime.fromisoformat(broken.tags.get(NOT_A_MODEL, now()))
        if (datetime.now(UTC) - begun).total_seconds() > TOMBSTONE:
            with suppress(MlflowException):
                client.delete_registered_model(broken.name)


def _read(client: MlflowClient, lock: str) -> dict[str, str] | None:
    """The lock's tags; None where it is gone."""
    try:
        return dict(client.get_registered_model(lock).tags)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return None


def _beat(client: MlflowClient, lock: str, done: threading.Event) -> None:
    number = 0
    while not done.wait(BEAT):
        number += 1
        with suppress(MlflowException):
            client.set_registered_model_tag(lock, "beat", str(number))


def _place() -> str:
    """Where process numbers mean the same: this boot of this machine, this container."""
    parts = [socket.gethostname()]
    with suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip())
        parts.append(str(Path("/proc/self/ns/pid").readlink()))
    return " ".join(parts)


def _process(number: int | None = None) -> str:
    """Number and start of a process, so that a later one of the same number is another; only the number where it is gone."""
    number = number or os.getpid()
    try:
        return f"{number} {psutil.Process(number).create_time():.2f}"
    except psutil.Error:
        return f"{number} gone"
