"""Settings of alerts: what somebody is told of while runs go on, and where to."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, Field

from configs.accepted_values import as_bytes, as_seconds, not_a_secret
from configs.section import Positive, Section

NotNegative = Annotated[float, Field(ge=0.0)]
Count = Annotated[int, Field(ge=0)]
OneOrMore = BeforeValidator(lambda value: [value] if isinstance(value, str) else value)
Seconds = Annotated[Positive, BeforeValidator(as_seconds)]


class AlertSettings(Section):
    """What somebody is told of beside the terminal, and where to. An alert that cannot be delivered never stops a run."""

    file: Path | None = None
    """A file to which each alert is added as a line of JSON."""
    commands: Annotated[list[str], OneOrMore] = []
    """Shell commands that get each alert as JSON on their standard input, and GPT2FLOW_ALERT, the alert as one sentence."""
    addresses: Annotated[list[Annotated[str, AfterValidator(not_a_secret)]], OneOrMore] = []
    """Where web addresses and mailboxes are found, since they hold secrets: env:NAME is an environment variable, file:PATH a
    file with an address a line. An address is https://... (it gets JSON) or what Apprise understands: mailtos://USER:PASSWORD@HOST
    and a hundred services such as Slack, Discord and ntfy."""
    repeat_after: Seconds = 21600
    """The same alert about the same run is told once in so many seconds; how often it came meanwhile is told with the next one
    and at the run's end. 90s, 30min, 6h and 1d are understood too."""
    timeout: Positive = 15
    """Seconds that a command or an address may take; each is tried three times."""
    failed: bool = True
    """A run or a night has failed, or its process has died."""
    no_success: Annotated[Count, BeforeValidator(as_seconds)] = 0
    """No night of the deployment has ended well for so many seconds, such as 36h; the worker looks. 0: do not look."""
    not_finite: bool = True
    """Loss or gradient are NaN or infinite."""
    loss_spike: NotNegative = 1.0
    """Nats by which a loss rises above those before it; 0: do not look."""
    worse_than_champion: Count = 3
    """So many evaluations in a row by which the run is worse than the registered champion. It is known where the run began from
    the champion, or both learn from the same text. 0: do not look."""
    disk_below: Annotated[Count, BeforeValidator(as_bytes)] = 1_000_000_000
    """Bytes that are free for the workspace, such as 5GB; 0: do not look."""
    throughput_below: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.5
    """Tokens a second as a share of what this process reached before; 0: do not look."""
    copied_tokens: Count = 200
    """Tokens of the longest passage that a sample repeats of the training text word for word; 0: do not look."""
    canary_exposure: NotNegative = 0.0
    """Bits that the most exposed of evaluate.canaries gives away, from 0 to 8; 0: do not look."""
