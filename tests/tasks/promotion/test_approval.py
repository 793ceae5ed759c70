"""A person's answer and those who are told of it: hooks that work, fail, and hang."""

import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from configs.errors import UserError
from configs.promotion import PromotionSettings
from tasks.promotion import hooks
from tasks.promotion.approval import answer
from tasks.promotion.hooks import tell
from tasks.promotion.ledger import Decision, Ledger
from tasks.promotion.match import close_expired
from tasks.promotion.record import record_and_move
from tasks.registry.lookup import Aliases, aliases_of

BEFORE, AFTER = Aliases("1", None, "2"), Aliases("2", "1", None)


def stand(ledger: Ledger) -> Aliases:
    return Aliases.of(aliases_of(MlflowClient(), ledger.model))


def test_a_person_who_agrees_makes_the_champion(ledger: Ledger, wait_for_a_person: Any) -> None:
    wait_for_a_person(ledger)
    assert stand(ledger) == BEFORE
    decision = answer(ledger.model, True, "reads better", "ada")
    assert (decision.verdict, decision.answers) == ("promoted", 1)
    assert decision.why == "ada agreed: reads better (Better.)"
    assert stand(ledger) == AFTER
    assert answer(ledger.model, True, "again").number == decision.number


def test_a_person_who_does_not_changes_nothing(ledger: Ledger, wait_for_a_person: Any) -> None:
    wait_for_a_person(ledger)
    assert answer(ledger.model, False, "too rude", "ada").verdict == "refused"
    assert stand(ledger) == BEFORE
    with pytest.raises(UserError, match=r"No decision about .* waits for an answer"):
        answer(ledger.model, True, "after all")


def test_an_answer_needs_a_question_and_a_reason(ledger: Ledger) -> None:
    with pytest.raises(UserError, match="A reason is needed"):
        answer(ledger.model, True, "  ")
    with pytest.raises(UserError, match="waits for an answer: gpt2flow history"):
        answer(ledger.model, True, "reads better")


def test_after_the_deadline_nothing_changes(ledger: Ledger, wait_for_a_person: Any) -> None:
    wait_for_a_person(ledger, hours=-1.0)
    with pytest.raises(UserError, match="waits for an answer"):
        answer(ledger.model, True, "too late")
    close_expired(MlflowClient(), ledger)
    close_expired(MlflowClient(), ledger)
    verdicts = [entry.decision.verdict for entry in ledger.entries()]
    assert verdicts == ["awaiting approval", "unchanged"]
    assert stand(ledger) == BEFORE


def test_a_question_is_void_once_somebody_moved_the_champion(ledger: Ledger, wait_for_a_person: Any) -> None:
    wait_for_a_person(ledger)
    MlflowClient().set_registered_model_alias(ledger.model, "champion", "2")
    with pytest.raises(UserError, match="waits for an answer"):
        answer(ledger.model, True, "reads better")


def test_an_answer_is_told_to_the_hooks_once_however_often_it_is_given(
    ledger: Ledger, wait_for_a_person: Any, tmp_path: Path
) -> None:
    wait_for_a_person(ledger, hooks={"on_promotion": [f"echo told >> {tmp_path / 'told'}"]})
    for _ in range(2):
        answer(ledger.model, True, "reads better", "ada")
    assert (tmp_path / "told").read_text() == "told\n"


def test_an_answer_to_a_question_of_that_number_leaves_another_question_alone(ledger: Ledger, wait_for_a_person: Any) -> None:
    first = wait_for_a_person(ledger)
    second = wait_for_a_person(ledger)
    answer(ledger.model, False, "too rude", "ada", second.number)
    assert answer(ledger.model, True, "after all", "ada", second.number).verdict == "refused"
    assert stand(ledger) == BEFORE
    assert answer(ledger.model, True, "reads better", "ada", first.number).answers == first.number


def told(ledger: Ledger, *wanted: str, **options: Any) -> Decision:
    settings = PromotionSettings.model_validate({"hooks": {"on_promotion": list(wanted), **options}})
    plain = {"why": "w", "when": "w", "who": "gate", "before": BEFORE, "after": AFTER}
    values = {"model": ledger.model, "verdict": "promoted", **plain, "settings": settings.model_dump(mode="json")}
    decision = record_and_move(MlflowClient(), ledger, Decision.model_validate(values))
    tell(decision)
    return decision


def test_a_command_gets_the_decision(ledger: Ledger, tmp_path: Path) -> None:
    out = tmp_path / "told"
    told(ledger, f'(cat; echo; echo "$GPT2FLOW_MODEL $GPT2FLOW_VERSION $GPT2FLOW_VERDICT") > {out}')
    content, names = out.read_text().strip().split("\n")
    assert json.loads(content)["verdict"] == "promoted"
    assert names == f"{ledger.model} 2 promoted"


def test_a_hook_that_fails_or_hangs_is_named_and_moves_nothing_back(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hooks, "PAUSE", 0.01)
    told(ledger, "echo no >&2; exit 3", "sleep 30", "http://127.0.0.1:9/x", attempts=2, timeout=0.5)
    assert stand(ledger) == AFTER
    noted = MlflowClient().get_run(ledger.entries()[0].run_id).data.tags["gpt2flow.hooks"]
    assert "exit code 3 no (2 attempts)" in noted
    assert "has not ended after 0.5 s" in noted
    assert "Connection refused" in noted


def test_an_address_that_is_a_secret_is_told_and_never_named(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(hooks, "PAUSE", 0.01)
    monkeypatch.setenv("CHAT_HOOK", "http://127.0.0.1:9/services/s3cret-hook")
    told(ledger, "env:CHAT_HOOK", "env:MISSING_HOOK", f"file:{tmp_path / 'none'}", attempts=1, timeout=0.5)
    noted = MlflowClient().get_run(ledger.entries()[0].run_id).data.tags["gpt2flow.hooks"]
    assert "env:CHAT_HOOK: [Errno" in noted
    assert "env:MISSING_HOOK is not set" in noted
    assert "cannot be read" in noted
    said = capsys.readouterr()
    assert "s3cret-hook" not in noted + said.out + said.err
    with pytest.raises(ValueError, match=r"holds a secret: put it into an environment variable and write env:NAME") as raised:
        PromotionSettings.model_validate({"hooks": {"on_promotion": "https://ann:s3cret-hook@chat.example/x"}})
    assert "s3cret-hook" not in str(raised.value.errors()[0]["msg"])


def test_an_address_is_asked_again_until_it_takes_the_news(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hooks, "PAUSE", 0.01)
    bodies: list[bytes] = []

    class Failing(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            bodies.append(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(500 if len(bodies) < 3 else 204)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Failing)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    told(ledger, f"http://127.0.0.1:{server.server_port}/news")
    server.shutdown()
    assert len(bodies) == 3
    assert json.loads(bodies[-1])["after"]["champion"] == "2"
    assert "gpt2flow.hooks" not in MlflowClient().get_run(ledger.entries()[0].run_id).data.tags
