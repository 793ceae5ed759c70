"""Tells alerts: at once where something is new, folded where it is not, beside the work, and never in its way."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from types import TracebackType

from rich.markup import escape

from configs.alerts import AlertSettings
from configs.errors import UserError
from tasks.alerts.alert import Alert, Kind
from tasks.alerts.alert_log import AlertLog
from tasks.alerts.delivery import append_to_file, run_command, send
from tasks.alerts.secret_addresses import read_addresses
from tasks.terminal.console import say, warn
from tasks.terminal.stop_signals import naming_interruptions
from tasks.workspace.folders import Workspace

ATTEMPTS = 3
PAUSE = 1.0
"""Seconds before the second attempt; twice as many before the third."""
PATIENCE = 60.0
"""Seconds that the end of a run waits for what is on its way."""


@dataclass(frozen=True)
class Receiver:
    """Who is told, under a name without secrets."""

    name: str
    tell: Callable[[Alert], str | None]


class Announcer:
    """Tells the alerts about one config's runs; as a context manager it waits at its end for what is on its way."""

    def __init__(self, settings: AlertSettings, subject: str) -> None:
        self.settings = settings
        self._subject = subject
        self._log = AlertLog(Workspace.current())
        self._deliveries: list[threading.Thread] = []
        self._failed: set[str] = set()
        self._not_noted: set[Kind] = set()

    def __enter__(self) -> Announcer:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        with suppress(OSError, UserError):
            self._send_out(self._log.unfold(self._subject))
        self.wait()

    def tell(self, alert: Alert) -> None:
        """Tell it, unless the same was told a short while ago. Never raises, never waits for a receiver."""
        try:
            told = self._log.note(alert, self.settings.repeat_after)
        except (OSError, UserError) as error:  # a full disk, which is what somebody may have to be told of
            told = None if alert.kind in self._not_noted else alert
            self._not_noted.add(alert.kind)
            self._complain("alerts.json", str(error))
        self._send_out([told] if told else [])

    def wait(self) -> None:
        """Until all is delivered or given up, at most `PATIENCE` seconds."""
        deadline = time.monotonic() + PATIENCE
        for delivery in self._deliveries:
            delivery.join(max(0.0, deadline - time.monotonic()))

    def _send_out(self, alerts: list[Alert]) -> None:
        for alert in alerts:
            warn("alert", escape(f"{alert.kind}: {alert.sentence}"))
            delivery = threading.Thread(target=self._deliver, args=(alert,), name="alert-delivery", daemon=True)
            self._deliveries.append(delivery)
            delivery.start()

    def _deliver(self, alert: Alert) -> None:
        for receiver in receivers(self.settings):
            if problem := deliver(receiver, alert):
                self._complain(receiver.name, problem)

    def _complain(self, name: str, problem: str) -> None:
        """Once for each receiver."""
        if name not in self._failed:
            self._failed.add(name)
            warn("alert", escape(f"not delivered to {name} ({problem}); the run goes on, and this is not said again"))


@contextmanager
def telling_of_failure(settings: AlertSettings, subject: str) -> Iterator[None]:
    """Tell that what is done inside has failed; a stop that somebody asked for is no failure."""
    try:
        with naming_interruptions():
            yield
    except Exception as error:
        if settings.failed:
            with Announcer(settings, subject) as announcer:
                announcer.tell(Alert("failed", subject, f"'{subject}' has failed: {error or type(error).__name__}"))
        raise


def try_receivers(settings: AlertSettings, subject: str) -> bool:
    """Send a test to everybody and say how it went; returns whether all of them took it."""
    alert = Alert("test", subject, f"This is a test of the alerts of '{subject}'.")
    problems = {receiver.name: deliver(receiver, alert) for receiver in receivers(settings)}
    for name, problem in problems.items():
        if problem:
            warn("alert", escape(f"{name}: {problem}"))
        else:
            say("alert", escape(f"{name}: delivered"))
    return not any(problems.values())


def receivers(settings: AlertSettings) -> list[Receiver]:
    """Everybody whom the settings name."""
    found = [Receiver(f"command {command!r}", partial(_run, command, settings)) for command in settings.commands]
    if settings.file:
        found.append(Receiver(str(settings.file), partial(append_to_file, settings.file)))
    return found + [Receiver(place, partial(_send, place, settings)) for place in settings.addresses]


def deliver(receiver: Receiver, alert: Alert) -> str | None:
    """Try it some times; returns the last problem."""
    problem = None
    for attempt in range(ATTEMPTS):
        if attempt:
            time.sleep(PAUSE * 2 ** (attempt - 1))
        if (problem := receiver.tell(alert)) is None:
            return None
    return problem


def _run(command: str, settings: AlertSettings, alert: Alert) -> str | None:
    return run_command(command, alert, settings.timeout)


def _send(place: str, settings: AlertSettings, alert: Alert) -> str | None:
    """Read each time: a file may be corrected while a run goes on."""
    try:
        addresses = read_addresses(place)
    except UserError as error:
        return str(error).rstrip(".")
    problems = [problem for address in addresses if (problem := send(address, alert, settings.timeout))]
    return "; ".join(problems) or None
