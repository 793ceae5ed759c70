"""Settings of what stays in a workspace and its registry for how long."""

from __future__ import annotations

from typing import Annotated

from pydantic import BeforeValidator, Field

from configs.accepted_values import as_seconds
from configs.section import Positive, Section

DAY = 86400


class RetentionSettings(Section):
    """What `gpt2flow gc` leaves although nothing needs it."""

    keep_versions: Annotated[int, Field(ge=0)] = 10
    """Versions without an alias that stay, the newest ones of a registered model."""
    older_than: Annotated[int, Field(ge=0), BeforeValidator(as_seconds)] = 7 * DAY
    """Seconds that something must be old to be removed; 90s, 30min, 6h and 1d are understood too."""
    history: Annotated[Positive, BeforeValidator(as_seconds)] | None = None
    """Seconds after which a run that has ended, and that no version comes from any more, goes as a whole: its folder with logs
    and samples, its run in MLflow with the curves. The same command would train it again. Unless given, all that stays."""
    abandoned_after: Annotated[Positive, BeforeValidator(as_seconds)] | None = None
    """Seconds after which an unfinished run that nobody works on is given up: its checkpoints go, and it would begin again.
    Unless given, what can be resumed stays."""
