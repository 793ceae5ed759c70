"""Alerts arrive at real receivers, and what does not arrive is named without its secrets. Also tests `secret_addresses`."""

import json
import logging
from pathlib import Path

import pytest

from configs.errors import UserError
from tasks.alerts.alert import Alert
from tasks.alerts.delivery import append_to_file, post_json, run_command, send
from tasks.alerts.secret_addresses import read_addresses, without_secrets
from tests.tasks.alerts.conftest import MailServer, WebServer, unused_port

SECRET = "t0ken-of-a-hook"


def test_a_web_address_gets_json_under_its_whole_path(web: WebServer, alert: Alert) -> None:
    assert send(f"http://{web.base}/hooks/{SECRET}?key=1&kind=a%20b", alert, 5) is None
    assert web.posted == [(f"/hooks/{SECRET}?key=1&kind=a%20b", alert.as_json())]


def test_an_address_of_apprise_gets_that_service_s_form(web: WebServer, alert: Alert) -> None:
    assert send(f"json://{web.base}/{SECRET}", alert, 5) is None
    [(path, body)] = web.posted
    assert path == f"/{SECRET}"
    assert (body["title"], body["message"]) == (alert.title, alert.sentence)


def test_a_mailbox_gets_the_sentence_from_who_may_send(mail: MailServer, alert: Alert) -> None:
    address = f"mailto://ann:s3cret-pass@{mail.place}?from=me@example.org&to=you@example.org"
    assert send(address, alert, 5) is None
    [message] = mail.mails
    assert (message["Subject"], message["To"]) == (alert.title, "you@example.org")
    assert alert.text in message.get_body(("plain", "html")).get_content()  # type: ignore[union-attr]


def test_a_command_gets_the_alert_on_its_input_and_as_a_sentence(tmp_path: Path, alert: Alert) -> None:
    told = tmp_path / "told"
    assert run_command(f'cat > {told}; echo "$GPT2FLOW_ALERT" > {told}.txt', alert, 5) is None
    assert json.loads(told.read_text()) == alert.as_json()
    assert told.with_suffix(".txt").read_text().strip() == alert.sentence


def test_a_file_gets_a_line_an_alert(tmp_path: Path, alert: Alert) -> None:
    file = tmp_path / "new" / "alerts.jsonl"
    assert append_to_file(file, alert) is append_to_file(file, alert) is None
    assert [json.loads(line)["sentence"] for line in file.read_text().splitlines()] == [alert.sentence] * 2
    assert "directory" in str(append_to_file(tmp_path, alert)).lower()


def test_what_is_not_taken_says_why_and_no_secret_is_in_it_or_in_any_log(
    web: WebServer, mail: MailServer, alert: Alert, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    web.status = 403
    assert send(f"http://{web.base}/{SECRET}", alert, 5) == "status 403"
    problems = [
        send(f"http://127.0.0.1:{unused_port()}/{SECRET}", alert, 5),
        send(f"json://{web.base}/{SECRET}", alert, 5),
        send(f"mailto://ann:{SECRET}@{mail.place}?from=me@example.org&to=you@example.org", alert, 5),
        send(f"no-such-service://{SECRET}", alert, 5),
        send(f"http://[{SECRET}/", alert, 5),
    ]
    assert all(problems), problems
    assert SECRET not in " ".join(map(str, problems)) + caplog.text
    assert mail.mails == []
    assert "exit code 3 out of order" in str(run_command("echo out of order >&2; exit 3", alert, 5))
    assert "has not ended" in str(run_command("sleep 5", alert, 0.2))


def test_a_post_that_is_redirected_did_not_arrive(web: WebServer) -> None:
    web.status = 302
    assert post_json(f"http://{web.base}/old", "{}", 5) == "status 302: name the address that it moved to"
    assert web.posted == [("/old", {})]


def test_addresses_come_from_the_environment_or_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "addresses"
    file.write_text("# the team\nhttps://a.example/1\n\nhttps://b.example/2\n")
    assert read_addresses(f"file:{file}") == ["https://a.example/1", "https://b.example/2"]
    monkeypatch.setenv("HOOK", "https://c.example/3")
    assert read_addresses("env:HOOK") == ["https://c.example/3"]
    monkeypatch.delenv("HOOK")
    with pytest.raises(UserError, match="env:HOOK is not set"):
        read_addresses("env:HOOK")
    with pytest.raises(UserError, match="cannot be read"):
        read_addresses(f"file:{tmp_path / 'missing'}")


def test_every_part_of_an_address_is_blotted_out() -> None:
    address = "mailtos://ann:s3cret-pass@mail.example:465?to=you@example.org"
    assert without_secrets("login ann, s3cret-pass refused by mail.example", address) == "login ann, *** refused by ***"
