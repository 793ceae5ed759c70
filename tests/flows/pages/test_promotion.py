"""What the command line prints of decisions and ledgers."""

from io import StringIO
from pathlib import Path
from typing import Any, get_args

import pytest
from rich.console import Console

import tasks  # noqa: F401  # first: it points MLflow at the tests' workspace
from flows.pages.promotion import EXIT_CODES, print_decision, print_history
from tasks.promotion.history import DecisionHistory
from tasks.promotion.ledger import Approval, Decision
from tasks.promotion.rules import RuleFinding, Verdict
from tasks.registry.lookup import Aliases

BEFORE, AFTER = Aliases("1", None, "2"), Aliases("2", "1", None)


def decision_of(verdict: str, number: int = 1, **others: Any) -> Decision:
    who = {"when": "2026-11-27T12:00:00+00:00", "who": "ada@here"}
    return Decision.model_validate(
        {"model": "[b]", "number": number, "verdict": verdict, "why": "Better [by 1].", "before": BEFORE, "after": AFTER, **who}
        | others
    )


@pytest.fixture
def console() -> Console:
    return Console(file=StringIO(), width=200, highlight=False)


def printed(console: Console) -> str:
    assert isinstance(console.file, StringIO)
    return console.file.getvalue()


def test_every_verdict_has_an_exit_code() -> None:
    assert set(EXIT_CODES) == set(get_args(Verdict))
    assert [EXIT_CODES[verdict] for verdict in ("promoted", "refused", "undecided")] == [0, 3, 4]


def test_a_promotion_is_printed_with_its_rules_and_the_aliases_that_moved(console: Console) -> None:
    findings = [
        RuleFinding(rule="bits_per_byte", mark="held", sentence="Better."),
        RuleFinding(rule="loops", mark="not measured", sentence="Not [measured]."),
    ]
    print_decision(console, decision_of("promoted", findings=findings))
    shown = printed(console)
    assert "✓  bits_per_byte  Better." in shown
    assert "–  loops          Not [measured]." in shown
    assert "[b]: promoted  Better [by 1]." in shown
    assert "champion: 1 → 2\nprevious: none → 1\ncandidate: 2 → none" in shown


@pytest.mark.parametrize("verdict", ["refused", "undecided", "awaiting approval", "unchanged"])
def test_what_moves_nothing_shows_no_moves(console: Console, verdict: str) -> None:
    print_decision(console, decision_of(verdict))
    assert f"[b]: {verdict}" in printed(console)
    assert "→" not in printed(console)


def test_a_ledger_is_printed_with_questions_answers_and_what_is_wrong_with_it(console: Console) -> None:
    agreed = Approval(by="ada", agreed=True, reason="reads better")
    decisions = [
        decision_of("awaiting approval"),
        decision_of("awaiting approval", 2, answers=1),
        decision_of("promoted", 3, answers=2, approval=agreed),
    ]
    print_history(console, DecisionHistory("[b]", decisions, ["decision [4] is missing"], True, Path("/copies")))
    assert [line.rstrip() for line in printed(console).splitlines()] == [
        "1  2026-11-27 12:00:00 UTC  ada@here  awaiting approval  champion 1",
        "   Better [by 1].",
        "2  2026-11-27 12:00:00 UTC  ada@here  awaiting approval  champion 1",
        "   Better [by 1]. In place of question 1.",
        "3  2026-11-27 12:00:00 UTC  ada@here  promoted  champion 1 → 2",
        "   Better [by 1].",
        "MLflow does not answer: these are the copies in /copies.",
        "✗ decision [4] is missing",
    ]


def test_a_model_without_decisions_is_said_to_have_none(console: Console) -> None:
    print_history(console, DecisionHistory("demo", [], [], False, Path("/copies")))
    assert "No decision about 'demo' has been made yet." in printed(console)
