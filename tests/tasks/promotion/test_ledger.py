"""The ledger in a real MLflow: numbers, the chain, what is readable offline, and what is noticed when somebody changes it."""

import json
import shutil
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from mlflow import MlflowClient

from configs.errors import UserError
from tasks.evidence.evidence import Evidence
from tasks.promotion import history
from tasks.promotion.history import read_history
from tasks.promotion.ledger import Decision, Ledger
from tasks.promotion.page import decision_in_short, render_decision
from tasks.promotion.record import record_and_move
from tasks.registry.lookup import Aliases, aliases_of
from tasks.workspace.databases import prepare_databases
from tasks.workspace.folders import Workspace


@pytest.fixture
def ledger(model_name: str) -> Ledger:
    """Of a registered model with two versions, the first of them champion."""
    prepare_databases(Workspace.current().create())
    client = MlflowClient()
    client.create_registered_model(model_name)
    for _ in range(2):
        client.create_model_version(model_name, "file:///nowhere")
    client.set_registered_model_alias(model_name, "champion", "1")
    client.set_registered_model_alias(model_name, "candidate", "2")
    return Ledger(client, model_name)


def decision(ledger: Ledger, verdict: str = "refused", **changes: object) -> Decision:
    stand = Aliases.of(aliases_of(MlflowClient(), ledger.model))
    plain = {"why": "because", "when": "2030-01-02T03:04:05+00:00", "who": "a@b", "before": stand, "after": stand}
    return Decision.model_validate({"model": ledger.model, "verdict": verdict, **plain, **changes})


def test_decisions_are_numbered_chained_and_complete(ledger: Ledger) -> None:
    client = MlflowClient()
    moved = Aliases("2", "1", None)
    for one in (decision(ledger), decision(ledger, "promoted", after=moved, evidence=Evidence(model=ledger.model))):
        record_and_move(client, ledger, one)
    first, second = ledger.entries()
    assert (first.decision.number, second.decision.number) == (1, 2)
    assert second.decision.previous_fingerprint == first.fingerprint
    assert first.applied and second.applied
    assert Aliases.of(aliases_of(client, ledger.model)) == moved
    found = read_history(ledger.model)
    assert [one.verdict for one in found.decisions] == ["refused", "promoted"]
    assert not found.problems


def test_a_verdict_that_moves_nothing_moves_nothing(ledger: Ledger) -> None:
    record_and_move(MlflowClient(), ledger, decision(ledger, "awaiting approval", after=Aliases("2", "1", None)))
    assert Aliases.of(aliases_of(MlflowClient(), ledger.model)) == Aliases("1", None, "2")


def test_a_record_that_somebody_changes_is_named(ledger: Ledger) -> None:
    record_and_move(MlflowClient(), ledger, decision(ledger))
    (entry,) = ledger.entries()
    file = ledger.folder / "000001" / "decision.json"
    content = json.loads(file.read_text())
    file.write_text(json.dumps({**content, "why": "because I say so"}))
    assert ledger.record(entry) is not None  # MLflow still has it, and the copy is mended
    assert json.loads(file.read_text())["why"] == "because"
    shutil.rmtree(ledger.folder)
    folder = urlsplit(MlflowClient().get_run(entry.run_id).info.artifact_uri).path
    artifact = Path(unquote(folder), "decision.json")
    artifact.write_text(artifact.read_text() + " ")
    assert read_history(ledger.model).problems == ["the record of decision 1 is not what was sealed, or gone"]


def test_a_decision_that_is_missing_is_named(ledger: Ledger) -> None:
    for _ in range(3):
        record_and_move(MlflowClient(), ledger, decision(ledger))
    MlflowClient().delete_run(ledger.entries()[1].run_id)
    assert "decision 2 is missing" in read_history(ledger.model).problems


def test_the_copies_are_read_where_mlflow_is_away(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    record_and_move(MlflowClient(), ledger, decision(ledger))
    away = MlflowClient("http://127.0.0.1:9")
    monkeypatch.setattr(history, "MlflowClient", lambda: away)
    found = read_history(ledger.model)
    assert found.from_copies
    assert [one.why for one in found.decisions] == ["because"]
    with pytest.raises(UserError, match="no copy of the ledger of 'unheard-of'"):
        read_history("unheard-of")


def test_an_unknown_model_is_said(ledger: Ledger) -> None:
    with pytest.raises(UserError, match="There is no registered model 'nothing'"):
        read_history("nothing")


def test_the_page_escapes_what_people_write_and_shows_what_moved(ledger: Ledger) -> None:
    moved = decision(ledger, "promoted", why="<script>alert(1)</script>", after=Aliases("2", "1", None), number=7)
    page = render_decision(moved)
    assert "<script>alert(1)" not in page
    assert "champion: 1 → 2" in page
    assert "http" not in page.replace("http-equiv", "")
    assert "champion: 1 → 2" in decision_in_short(moved)
