"""Curves for an HTML page: points, ticks and hover values in percent of the plot, so that the page scales them to any width."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

from matplotlib.ticker import MaxNLocator

MOST_POINTS = 400
"""Of a curve: more cannot be told apart on a screen."""
COLOURS = 6
MARGIN = 0.04
"""Share of the height that stays free above and below the curves."""


@dataclass(frozen=True)
class Series:
    """One curve: values by step, in order."""

    name: str
    steps: list[int]
    values: list[float]
    faint: bool = False
    """In the background: the raw values behind a smoothed curve."""
    dotted: bool = False
    """With a dot at each point: for few points."""


@dataclass(frozen=True)
class Tick:
    """A mark on an axis, at this percentage of its length."""

    label: str
    at: float


@dataclass(frozen=True)
class Chart:
    """Curves over the training steps in one plot; there is at least one point."""

    title: str
    series: list[Series]

    @cached_property
    def x_ticks(self) -> list[Tick]:
        """Steps, from left to right."""
        low, high = self._x_range
        return [Tick(f"{step:,.0f}", self._x(step)) for step in _ticks(low, high, integer=True)]

    @cached_property
    def y_ticks(self) -> list[Tick]:
        """Values, in percent from the top."""
        values = _ticks(*self._y_range)
        digits = next((digits for digits in range(6) if all(_is_exact(value, digits) for value in values)), 6)
        return [Tick(_number(value, digits), self._y(value)) for value in values]

    @cached_property
    def colours(self) -> list[int]:
        """Number of each curve's colour; a faint one has that of the curve behind which it stands."""
        numbers, next_number = [], 0
        for curve in self.series:
            numbers.append(next_number)
            next_number = (next_number + (not curve.faint)) % COLOURS
        return numbers

    def points(self, series: Series) -> str:
        """The curve as an SVG polyline in a plot of 100 by 100."""
        return " ".join(f"{x:.2f},{y:.2f}" for x, y in self.places(series))

    def places(self, series: Series) -> list[tuple[float, float]]:
        """The points in percent from the left and from the top."""
        return [(self._x(step), self._y(value)) for step, value in zip(series.steps, series.values, strict=True)]

    @property
    def hover(self) -> dict[str, object]:
        """What a script needs to say the values at a step."""
        series = [{"name": s.name, "steps": s.steps, "values": s.values} for s in self.series if not s.faint]
        return {"from": self._x_range[0], "to": self._x_range[1], "series": series}

    @cached_property
    def _x_range(self) -> tuple[float, float]:
        steps = [step for series in self.series for step in series.steps]
        return min(steps), max(max(steps), min(steps) + 1)

    @cached_property
    def _y_range(self) -> tuple[float, float]:
        values = [value for series in self.series for value in series.values]
        low, high = min(values), max(values)
        margin = MARGIN * (high - low) or abs(high) * MARGIN or 1.0
        return low - margin, high + margin

    def _x(self, step: float) -> float:
        low, high = self._x_range
        return 100.0 * (step - low) / (high - low)

    def _y(self, value: float) -> float:
        low, high = self._y_range
        return 100.0 * (high - value) / (high - low)


def series(name: str, rows: Iterable[tuple[float, float]], faint: bool = False, dotted: bool = False) -> Series | None:
    """A curve of (step, value), thinned out where it is long; None if no value is finite."""
    finite = [(int(step), value) for step, value in rows if math.isfinite(value)]
    if not finite:
        return None
    every = math.ceil(len(finite) / MOST_POINTS)
    kept = finite[:-1:every] + finite[-1:]
    return Series(name, [step for step, _ in kept], [value for _, value in kept], faint, dotted)


def chart(title: str, *curves: Series | None) -> Chart | None:
    """A chart of the curves that are there; None if none is."""
    there = [curve for curve in curves if curve is not None]
    return Chart(title, there) if there else None


def smoothed(values: Sequence[float], window: int) -> list[float]:
    """Exponential moving average over about `window` values, debiased as in Adam, so that it begins at the first value."""
    decay, average, weight, result = 1.0 - 1.0 / max(1, window), 0.0, 0.0, []
    for value in values:
        if math.isfinite(value):
            average = decay * average + (1.0 - decay) * value
            weight = decay * weight + (1.0 - decay)
        result.append(average / weight if weight else math.nan)
    return result


def _ticks(low: float, high: float, integer: bool = False) -> list[float]:
    found = MaxNLocator(nbins=5, steps=[1, 2, 2.5, 5, 10], integer=integer).tick_values(low, high)
    return [float(value) for value in found if low <= value <= high]


def _number(value: float, digits: int) -> str:
    return f"{value:.1e}" if digits > 4 and value else f"{value:,.{min(digits, 4)}f}"


def _is_exact(value: float, digits: int) -> bool:
    return math.isclose(round(value, digits), value, rel_tol=1e-6, abs_tol=1e-12)
