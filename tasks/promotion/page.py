"""A decision as one self-contained HTML page, and its short form in Prefect."""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

from prefect.artifacts import create_markdown_artifact
from prefect.context import FlowRunContext

from gpt2core.lens.pages import page_environment
from gpt2core.machine.quantities import bytes_text
from tasks import reports
from tasks.evidence.evidence import Contender, Evidence, EvidenceSample, SourceGain
from tasks.promotion.ledger import MOVING, Decision
from tasks.promotion.rules import LIMITED
from tasks.registry.lookup import CANDIDATE, CHAMPION, PREVIOUS
from tasks.reports.charts import Chart, chart, series
from tasks.terminal.prefect_page import shown_if_served

FOLDERS = (Path(__file__).parent, Path(reports.__file__).parent)
MARKS = {"held": "✓", "broken": "✗", "open": "?", "not measured": "–"}
FIGURES = {
    "bits_per_byte": ("bits per byte", "{:.4f}".format),
    "val_loss": ("loss in nats a token", "{:.4f}".format),
    "accuracy": ("accuracy", "{:.1%}".format),
    **LIMITED,
    "text_repetition": ("repetition in the text", "{:.1%}".format),
    "bytes": ("weights", bytes_text),
    "parameters": ("parameters", "{:,}".format),
    "n_vocab": ("vocabulary", "{:,}".format),
}
MARGIN = 0.06
"""Share of the width that stays free beside the widest interval."""


@dataclass(frozen=True)
class Bar:
    """An interval in percent of the plot's width."""

    name: str
    text: str
    low: float
    high: float
    at: float


@dataclass(frozen=True)
class Bars:
    """Intervals of gains on one scale; `zero` and `margin` are places on it."""

    bars: list[Bar]
    zero: float
    margin: float | None


def render_decision(decision: Decision) -> str:
    """The page."""
    evidence = decision.evidence or Evidence(model=decision.model)
    title = f"{decision.model}: decision {decision.number}"
    return (
        page_environment(*FOLDERS)
        .get_template("page_of_decision.html")
        .render(
            title=title,
            decision=decision,
            evidence=evidence,
            marks=MARKS,
            bars=bars_of(evidence),
            curves=curves_of(evidence),
            figures=decision_figures(evidence),
            samples=samples_of(evidence),
            moves=moves_of(decision),
        )
    )


def decision_in_short(decision: Decision) -> str:
    """The verdict and what became of each rule, in Markdown."""
    rows = [f"| {MARKS[finding.mark]} | {finding.rule} | {finding.sentence} |" for finding in decision.findings]
    table = ["| | rule | |", "|---|---|---|", *rows] if rows else []
    moves = [f"- {name}: {before or 'none'} → {after or 'none'}" for name, before, after in moves_of(decision)]
    return "\n".join([f"## {decision.model}: {decision.verdict}", decision.why, "", *table, "", *moves, ""])


def show_in_prefect(decision: Decision) -> None:
    """Put the short form among the artifacts of the flow that runs, if one does."""
    if FlowRunContext.get():
        key = re.sub(r"[^a-z0-9]+", "-", f"promotion-{decision.model}".lower())  # Prefect allows nothing else
        with shown_if_served("the decision"):
            create_markdown_artifact(markdown=decision_in_short(decision), key=key)


def moves_of(decision: Decision) -> list[tuple[str, str | None, str | None]]:
    """Alias, version before, version after, of each alias that a decision moves."""
    names = (CHAMPION, PREVIOUS, CANDIDATE)
    pairs = [(name, getattr(decision.before, name), getattr(decision.after, name)) for name in names]
    return [(name, before, after) for name, before, after in pairs if before != after and decision.verdict in MOVING]


def bars_of(evidence: Evidence) -> Bars | None:
    """The gain over all documents and by source; None where nothing was compared."""
    outcome = evidence.outcome
    if outcome is None:
        return None
    whole = SourceGain(name="all documents", documents=outcome.documents, gain=outcome.gain, low=outcome.low, high=outcome.high)
    rows = [row for row in (whole, *outcome.by_source) if row.gain is not None]
    if not rows:
        return None
    known = [value for row in rows for value in (row.low, row.high, row.gain) if value is not None]
    ends = [*known, 0.0, outcome.margin]
    spare = MARGIN * (max(ends) - min(ends)) or 1.0
    left, right = min(ends) - spare, max(ends) + spare

    def place(value: float | None, otherwise: float) -> float:
        return otherwise if value is None else 100 * (value - left) / (right - left)

    bars = [Bar(row.name, _gain_text(row), place(row.low, 0), place(row.high, 100), place(row.gain, 50)) for row in rows]
    return Bars(bars, place(0.0, 0), place(outcome.margin, 0) if outcome.margin else None)


def _gain_text(row: SourceGain) -> str:
    documents = f"{row.documents:,} document{'s' if row.documents != 1 else ''}"
    if row.low is None or row.high is None:
        return f"{row.gain:+.4f}, {documents}"
    return f"{row.gain:+.4f} ({row.low:+.4f} to {row.high:+.4f}), {documents}"


def curves_of(evidence: Evidence) -> Chart | None:
    """Bits per byte by step of both, each on the held-out text of its own run."""
    both = [(role, one) for role, one in (("candidate", evidence.candidate), (evidence.role, evidence.rival)) if one]
    return chart("bits per byte by step, each on its own run's held-out text", *(series(role, one.curve) for role, one in both))


def decision_figures(evidence: Evidence) -> list[tuple[str, str, str]]:
    """Name, candidate's value, rival's value of every figure that one of the two has."""
    rows = []
    for name, (title, written) in FIGURES.items():
        values = [_written(one, name, written) for one in (evidence.candidate, evidence.rival)]
        if any(values):
            rows.append((title, values[0] or "–", values[1] or "–"))
    tasks = evidence.candidate.tasks if evidence.candidate else {}
    for task, figures in tasks.items():
        for figure, value in figures.items():
            other = evidence.rival.tasks.get(task, {}).get(figure) if evidence.rival else None
            mine, theirs = ("–" if one is None else f"{one:.4f}" for one in (value, other))
            rows.append((f"{task} {figure}", mine, theirs))
    return rows


def _written(contender: Contender | None, name: str, written: object) -> str:
    value = getattr(contender, name, None)
    return "" if value is None or not callable(written) else str(written(value))


def samples_of(evidence: Evidence) -> list[tuple[EvidenceSample, EvidenceSample | None]]:
    """Samples side by side: the same prompt and the same number of both."""
    if evidence.candidate is None:
        return []
    own, others = evidence.candidate.samples, evidence.rival.samples if evidence.rival else []
    return list(zip_longest(own, others[: len(own)]))
