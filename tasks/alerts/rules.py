"""When somebody is told: pure functions from figures to a sentence, None where there is nothing to tell."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from statistics import median

from gpt2core.machine.quantities import bytes_text, duration
from gpt2core.training.callback import StepMetrics

RECENT = 5
"""Reports of throughput that are judged together: one alone may be slow by chance."""
USUAL = 50
"""Reports before those, that they are compared with."""
FEWEST = 10
"""Of the latter, without which nothing is judged."""


def spike(rows: Iterable[Mapping[str, float]], least: float) -> str | None:
    """The highest spike of these rows of metrics.jsonl, if it rises by `least` nats; `least` 0 switches the rule off."""
    spikes = [row for row in rows if least and row.get("loss_spike", 0.0) >= least]
    if not spikes:
        return None
    highest = max(spikes, key=lambda row: row["loss_spike"])
    rise, step = highest["loss_spike"], int(highest["step"])
    return f"The loss is {highest['loss']:.3f} at step {step:,}, {rise:.3f} above what the steps before had."


def not_finite(update: StepMetrics) -> str | None:
    """Loss or gradient of the update are no numbers."""
    if math.isfinite(update.loss) and math.isfinite(update.gradient_norm):
        return None
    return f"The loss ({update.loss:g}) or its gradient ({update.gradient_norm:g}) is not finite at step {update.step:,}."


def slower(speeds: Sequence[float], below: float) -> str | None:
    """The last `RECENT` of these tokens a second, by their median, reach less than this share of those before."""
    usual = speeds[-RECENT - USUAL : -RECENT]
    if not below or len(usual) < FEWEST:
        return None
    before, now = median(usual), median(speeds[-RECENT:])
    if now >= below * before:
        return None
    return f"Training makes {now:,.0f} tokens a second, {now / before:.0%} of the {before:,.0f} that it made before."


def worse_than_champion(costs: Sequence[float], champion: float, times: int) -> str | None:
    """The last `times` evaluations are all worse than the champion, by costs of which the lower one is better."""
    if not times or len(costs) < times or not all(cost > champion for cost in costs[-times:]):
        return None
    return f"The last {times} evaluations are worse than the champion's."


def disk_low(free: int, below: int, place: str) -> str | None:
    """Fewer bytes are free than there should be."""
    return f"{bytes_text(free)} are free at {place}, less than {bytes_text(below)}." if free < below else None


def memorised(row: Mapping[str, float], copied_tokens: int, canary_exposure: float) -> str | None:
    """The samples of an evaluation copy, or its canaries give away, more than they may."""
    step, copied, exposed = int(row["step"]), row.get("sample_longest_copy", 0.0), row.get("canary_exposure", 0.0)
    if copied_tokens and copied > copied_tokens:
        return f"At step {step:,} a sample repeats {copied:.0f} tokens of the training text word for word."
    if canary_exposure and exposed > canary_exposure:
        return f"At step {step:,} a canary gives away {exposed:.1f} bits of its secret."
    return None


def overdue(last_success: datetime, now: datetime, longest: float) -> str | None:
    """The last night that ended well is further away than this many seconds."""
    waited = (now - last_success).total_seconds()
    if not longest or waited <= longest:
        return None
    return f"No night has ended well for {duration(waited)}, since {last_success.astimezone():%Y-%m-%d %H:%M}."
