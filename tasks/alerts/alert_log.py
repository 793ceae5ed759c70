"""Which alerts came and which of them were told: repeats are folded, also those of other processes and of earlier ones.

alerts/alerts.json   the latest alerts, each with how often the same came again before it was told anew
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path

from gpt2core.machine.lock import locked
from gpt2core.machine.sealed_json import DamagedFileError, read_sealed, write_sealed
from tasks.alerts.alert import STATES, Alert, Kind
from tasks.workspace.folders import Workspace

MOST_KEPT = 200


@dataclass(frozen=True)
class Entry:
    """An alert that was told, and what was folded into it."""

    kind: Kind
    subject: str
    text: str
    time: str
    repeats: int = 0
    """How often the same came since, without being told."""
    last: str = ""
    """When it came last."""
    more: int = 0
    """How often it had come before, since the one told before this one."""

    @property
    def times(self) -> int:
        """How often it came, since this one or one before was told."""
        return 1 + self.more + self.repeats

    def is_like(self, alert: Alert) -> bool:
        """Whether both are about the same."""
        return (self.kind, self.subject) == (alert.kind, alert.subject)


class AlertLog:
    """The workspace's alerts, the newest last."""

    def __init__(self, workspace: Workspace) -> None:
        self._file = workspace.alerts / "alerts.json"

    def entries(self) -> list[Entry]:
        """All that are kept; none where the file is damaged."""
        try:
            return [Entry(**entry) for entry in read_sealed(self._file)["alerts"]]
        except (FileNotFoundError, DamagedFileError, TypeError, KeyError):
            return []

    def note(self, alert: Alert, repeat_after: float) -> Alert | None:
        """The alert as it is to be told, with how often it was folded before; None where it is folded now.

        Raises OSError or UserError where it cannot be noted.
        """
        with self._changing() as entries:
            number = _newest(entries, alert)
            before = entries[number] if number is not None else None
            if number is not None and before and _moment(alert.time) < _moment(before.time) + timedelta(seconds=repeat_after):
                entries[number] = replace(before, repeats=before.repeats + (alert.kind not in STATES), last=alert.time)
                return None
            told = replace(alert, more=before.repeats, since=before.time) if before else alert
            if number is not None and before:
                entries[number] = replace(before, repeats=0)
            entries.append(Entry(alert.kind, alert.subject, alert.text, alert.time, more=told.more))
            return told

    def unfold(self, subject: str) -> list[Alert]:
        """What was folded about a subject and not told yet, as alerts to tell now; raises as `note`."""
        found = []
        with self._changing() as entries:
            for number, entry in enumerate(entries):
                if entry.subject == subject and entry.repeats:
                    found.append(Alert(entry.kind, subject, entry.text, entry.last, entry.repeats, entry.time))
                    entries[number] = replace(entry, repeats=0, more=entry.more + entry.repeats)
        return found

    @contextmanager
    def _changing(self) -> Iterator[list[Entry]]:
        self._file.parent.mkdir(parents=True, exist_ok=True)
        with locked(self._file.with_suffix(".lock")):
            entries = self.entries()
            before = list(entries)
            yield entries
            if entries != before:
                _write(self._file, entries)


def _write(file: Path, entries: list[Entry]) -> None:
    write_sealed(file, {"alerts": [asdict(entry) for entry in entries[-MOST_KEPT:]]})


def _newest(entries: list[Entry], alert: Alert) -> int | None:
    alike = [number for number, entry in enumerate(entries) if entry.is_like(alert)]
    return alike[-1] if alike else None


def _moment(time: str) -> datetime:
    return datetime.fromisoformat(time)
