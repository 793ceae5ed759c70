"""The figures of a run's evaluations under names that people read: tables by step and small charts, whatever keys there are."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from tasks.reports.charts import Chart, chart, series

StepFigures = dict[str, float]
NAMES = {
    "val_loss": "validation loss",
    "val_tokens": "tokens scored",
    "bits_per_byte": "bits per byte",
    "accuracy": "token accuracy",
    "calibration_error": "calibration error",
    "gain": "gain over step 0, nats a token",
    "gain_low": "gain: 95% interval from",
    "gain_high": "gain: 95% interval to",
    "sample_distinct": "samples: different n-grams",
    "sample_distinct_1": "samples: different tokens",
    "sample_distinct_2": "samples: different pairs",
    "sample_distinct_3": "samples: different triples",
    "sample_repetition": "samples: repeated 4-grams",
    "sample_loops": "samples: end in a loop",
    "sample_length": "samples: mean length in tokens",
    "sample_ended": "samples: ended by themselves",
    "sample_longest_copy": "samples: longest copied passage, tokens",
    "sample_copied_share": "samples: copied 50-token windows",
    "canary_exposure": "canary exposure, bits",
}
TABLES = {
    "by_source": "By source",
    "by_length": "By length in tokens",
    "calibration": "Calibration: first guesses by their probability, and how many were right",
    "copies: passages": "Passages that samples share with the training text",
    "canaries": "Canaries",
}
MOST_ROWS = 15
"""Of a table."""
SHARES = ("accuracy", "distinct", "repetition", "loops", "ended", "share")
"""Words in the key of a figure that is a share and shown in percent."""
CHARTED_ELSEWHERE = {"val_loss", "val_tokens", "step", "time"}


@dataclass(frozen=True)
class FigureRow:
    """A figure at each of the steps shown; empty where it was not measured."""

    name: str
    values: list[str]


@dataclass(frozen=True)
class DetailTable:
    """A table that an evaluation has written."""

    title: str
    columns: list[str]
    rows: list[list[str]]
    left_out: int
    """Rows beyond those shown."""


def detail_tables(details: Mapping[str, Any]) -> list[DetailTable]:
    """All lists of records in an evaluation's report, also those one level down."""
    inner = {f"{key}: {name}": value for key, part in details.items() if isinstance(part, dict) for name, value in part.items()}
    lists = {key: value for key, value in {**details, **inner}.items() if isinstance(value, list) and value}
    return [_table(TABLES.get(key, key), rows) for key, rows in lists.items() if all(isinstance(row, dict) for row in rows)]


def _table(title: str, rows: list[dict[str, Any]]) -> DetailTable:
    shown = [[_cell(key, value) for key, value in row.items()] for row in rows[:MOST_ROWS]]
    return DetailTable(title, [name_of(key) for key in rows[0]], shown, max(0, len(rows) - MOST_ROWS))


def _cell(key: str, value: Any) -> str:
    return text_of(key, value) if isinstance(value, int | float) else str(value)


def name_of(key: str) -> str:
    """A figure's name for people."""
    return NAMES.get(key) or key.replace("val_loss", "loss").replace("_", " ").replace("/", ": ")


def text_of(key: str, value: float | None) -> str:
    """A figure as it is written."""
    if value is None:
        return ""
    if any(word in key for word in SHARES):
        return f"{value:.1%}"
    if float(value).is_integer() or abs(value) >= 1000:
        return f"{value:,.0f}"
    digits = 1 if abs(value) >= 100 else 3
    return f"{value:,.{digits}f}" if abs(value) >= 0.01 else f"{value:.2g}"


def figure_rows(rows: list[StepFigures]) -> list[FigureRow]:
    """All figures of these evaluations in the order in which they first appear."""
    keys = dict.fromkeys(key for row in rows for key in row if key not in ("step", "time"))
    return [FigureRow(name_of(key), [text_of(key, row.get(key)) for row in rows]) for key in keys]


def figure_charts(rows: list[StepFigures]) -> list[Chart]:
    """A small chart for each group of figures that has changed since the first evaluation."""
    keys = dict.fromkeys(key for row in rows for key in row if key not in CHARTED_ELSEWHERE)
    groups: dict[str, list[str]] = {}
    for key in keys:
        groups.setdefault(_group(key), []).append(key)
    changing = {group: members for group, members in groups.items() if any(_changes(key, rows) for key in members)}
    made = [_chart(group, members, rows) for group, members in changing.items()]
    return [found for found in made if found is not None]


def evenly(values: Iterable[int], most: int, always: int | None = None) -> list[int]:
    """At most so many of them, evenly spread, the first and the last, and `always` if it is among them."""
    ordered = list(values)
    if len(ordered) <= most:
        return ordered
    kept = {ordered[round(number * (len(ordered) - 1) / (most - 1))] for number in range(most)}
    if always in ordered and always not in kept:
        kept.remove(min(kept - {ordered[0], ordered[-1]}, key=lambda value: abs(value - (always or 0))))
        kept.add(always or 0)
    return sorted(kept)


def _chart(group: str, keys: list[str], rows: list[StepFigures]) -> Chart | None:
    curves = [
        series(name_of(key).split(": ")[-1], [(row["step"], row[key]) for row in rows if key in row], dotted=True)
        for key in keys
    ]
    return chart(name_of(group), *curves)


def _changes(key: str, rows: list[StepFigures]) -> bool:
    return len({row[key] for row in rows if key in row}) > 1


def _group(key: str) -> str:
    """Parts of one whole, ends of an interval and numbered kinds stand in one chart."""
    return re.sub(r"_(low|high|\d+)$", "", key.split("/")[0])
