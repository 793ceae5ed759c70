"""Settings of runs that start by themselves: when, from which model, and what happens when something is in the way."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from configs.accepted_values import as_seconds, known_timezone
from configs.section import Positive, Section

Seconds = Annotated[Positive, BeforeValidator(as_seconds)]


class ScheduleSettings(Section):
    """When `gpt2flow deploy` lets the config train by itself, and how. Nothing here changes the weights of a run."""

    cron: str | None = None
    """When a night begins, as cron says it: 0 3 * * * is three o'clock every day."""
    every: Seconds | None = None
    """Seconds from the beginning of one night to the next, instead of cron; 90s, 30min, 6h and 1d are understood too."""
    timezone: Annotated[str, AfterValidator(known_timezone)] = "UTC"
    """Time zone that cron is meant in, such as Europe/Berlin."""
    on_event: Annotated[str, Field(min_length=1)] | None = None
    """Name of an event in Prefect that begins a night too, such as text.arrived."""
    settle: Annotated[Seconds, Field(ge=10)] = 30
    """Seconds without a further such event that are waited for, so that many of them begin one night."""
    go_on_from: str = "champion"
    """Alias of the registered model that a night goes on from. Where no version has it, the night begins with model.base."""
    when_busy: Literal["queue", "skip"] = "queue"
    """What a run does while another one trains on its device, or while the night before it is still under way: wait, or not
    take place."""
    attempts: Positive = 5
    """A night whose process dies is resumed until it has died so often."""
    back_off: Seconds = 60
    """Seconds before the first of these attempts to resume; each further one waits twice as long."""
    stalled_after: Seconds = 3600
    """A night that for so many seconds has made no step and finished no other piece of work is killed and resumed."""

    gc: bool = False
    """Whether a night that has trained ends with gc, by the section gc: of versions and checkpoints of its own name, and of all
    token stores."""

    @model_validator(mode="after")
    def _one_schedule(self) -> Self:
        if self.cron and self.every:
            raise ValueError("has both cron and every: give one of them")
        return self
