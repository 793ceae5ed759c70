"""What the command line prints of a decision, and of the ledger."""

from __future__ import annotations

from mlflow import MlflowClient
from rich.console import Console
from rich.markup import escape
from rich.padding import Padding
from rich.table import Table

from tasks.promotion.history import DecisionHistory
from tasks.promotion.ledger import MOVING, Decision, Ledger
from tasks.promotion.page import MARKS, moves_of
from tasks.promotion.rules import Mark, Verdict

EXIT_CODES: dict[Verdict, int] = {
    "promoted": 0,
    "unchanged": 0,
    "awaiting approval": 0,
    "rolled back": 0,
    "refused": 3,
    "undecided": 4,
}
COLOURS: dict[Mark, str] = {"held": "green", "broken": "red", "open": "yellow", "not measured": "dim"}
VERDICT_COLOURS: dict[Verdict, str] = {
    "promoted": "green",
    "refused": "red",
    "undecided": "yellow",
    "awaiting approval": "yellow",
}


def print_decision(console: Console, decision: Decision) -> None:
    """Print what became of each rule, the verdict, the aliases that moved and where the page is."""
    if decision.findings:
        table = Table(box=None, padding=(0, 2, 0, 0), show_header=False)
        for finding in decision.findings:
            mark = f"[{COLOURS[finding.mark]}]{MARKS[finding.mark]}[/]"
            table.add_row(mark, finding.rule, escape(finding.sentence))
        console.print(table)
        console.print()
    colour = VERDICT_COLOURS.get(decision.verdict, "bold")
    console.print(f"[{colour}]{escape(decision.model)}: {decision.verdict}[/]  {escape(decision.why)}", soft_wrap=True)
    for alias, before, after in moves_of(decision):
        console.print(f"{alias}: {before or 'none'} → {after or 'none'}")
    page = Ledger(MlflowClient(), decision.model).page(decision.number)
    if decision.number and page.is_file():
        console.print(f"page: {page.as_uri()}", soft_wrap=True)


def _why(decision: Decision) -> str:
    """The grounds, and which question the decision has made void."""
    void = decision.answers if decision.approval is None and decision.verdict != "unchanged" else None
    return f"{decision.why} In place of question {void}." if void else decision.why


def print_history(console: Console, history: DecisionHistory) -> None:
    """Print the ledger, the latest decision last, each with its grounds and its page, and what is wrong with it."""
    if not history.decisions:
        console.print(f"No decision about '{escape(history.model)}' has been made yet.")
    for decision in history.decisions:
        before, after = decision.before.champion or "none", decision.after.champion or "none"
        moved = f"{before} → {after}" if before != after and decision.verdict in MOVING else before
        colour = VERDICT_COLOURS.get(decision.verdict, "default")
        when = decision.when.replace("T", " ").replace("+00:00", " UTC")
        console.print(
            f"{decision.number}  {when}  {escape(decision.who)}  [{colour}]{decision.verdict}[/]  champion {moved}",
            soft_wrap=True,
        )
        console.print(Padding(escape(_why(decision)), (0, 0, 0, 3)))
        if (page := history.page(decision.number)).is_file():
            console.print(f"   page: {page.as_uri()}", soft_wrap=True)
    if history.from_copies:
        console.print(f"[yellow]MLflow does not answer: these are the copies in {history.folder}.[/]", soft_wrap=True)
    for problem in history.problems:
        console.print(f"[red]✗[/] {escape(problem)}", soft_wrap=True)
