"""What is told: one alert."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any, Literal

Kind = Literal[
    "failed",
    "crashed",
    "no success",
    "not finite",
    "loss spike",
    "worse than champion",
    "disk low",
    "slow",
    "memorised",
    "test",
]
STATES: frozenset[Kind] = frozenset({"no success", "disk low"})
"""Kinds of alert about something that lasts and is looked at every minute: that it is still so is nothing that came again."""


def now() -> str:
    """The present, in local time with its offset."""
    return datetime.now().astimezone().isoformat(timespec="seconds")


@dataclass(frozen=True)
class Alert:
    """Something that a person should know of a run, or of a deployment's nights."""

    kind: Kind
    subject: str
    """Name of the config, which is that of its deployment too."""
    text: str
    """A sentence."""
    time: str = field(default_factory=now)
    more: int = 0
    """How often the same has come since it was told before."""
    since: str = ""
    """When it was told before."""

    @property
    def title(self) -> str:
        """For a subject line."""
        return f"gpt2flow: {self.subject}: {self.kind}"

    @property
    def sentence(self) -> str:
        """The text, and how often the same has come meanwhile."""
        times = f"{self.more:,} time{'s' if self.more > 1 else ''}"
        return f"{self.text} ({times} more since it was told at {self.since})" if self.more else self.text

    def as_json(self) -> dict[str, Any]:
        """For machines."""
        return {**asdict(self), "sentence": self.sentence}
