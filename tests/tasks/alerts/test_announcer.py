"""Alerts are told beside the work: a receiver that is away, hangs or refuses is named once and stops nothing."""

import json
import subprocess
import time
from pathlib import Path

import pytest

from configs.alerts import AlertSettings
from tasks.alerts.alert import Alert
from tasks.alerts.announcer import Announcer, telling_of_failure, try_receivers
from tasks.terminal.stop_signals import Interrupted
from tests.tasks.alerts.conftest import WebServer

SECRET = "t0ken-of-a-hook"


def sentences(settings: AlertSettings) -> list[str]:
    assert settings.file
    return [json.loads(line)["sentence"] for line in settings.file.read_text().splitlines()] if settings.file.exists() else []


def test_an_alert_is_told_at_once_and_its_repeats_at_the_end(settings: AlertSettings, alert: Alert) -> None:
    with Announcer(settings, "demo") as announcer:
        for _ in range(5):
            announcer.tell(alert)
        announcer.wait()
        assert sentences(settings) == [alert.sentence]
    assert len(sentences(settings)) == 2
    assert "4 times more" in sentences(settings)[1]


def test_who_cannot_be_told_is_named_once_without_the_secret(
    web: WebServer, alert: Alert, settings: AlertSettings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    web.status = 500
    monkeypatch.setenv("HOOK", f"http://{web.base}/{SECRET}")
    refused = settings.model_copy(update={"addresses": ["env:HOOK", "env:MISSING"], "commands": ["exit 7"]})
    with Announcer(refused, "demo") as announcer:
        for kind in ("slow", "disk low", "loss spike"):
            announcer.tell(Alert(kind, "demo", "x"))  # type: ignore[arg-type]
    printed = " ".join(capsys.readouterr().out.split())
    assert printed.count("not delivered to env:HOOK (status 500)") == 1
    assert printed.count("env:MISSING is not set") == 1
    assert printed.count("exit code 7") == 1
    assert len(web.posted) == 9  # each of the three alerts three times
    assert SECRET not in printed
    assert len(sentences(settings)) == 3


def test_a_receiver_that_hangs_holds_up_nothing(settings: AlertSettings, alert: Alert) -> None:
    slow = settings.model_copy(update={"commands": ["sleep 1"]})
    announcer = Announcer(slow, "demo")
    begun = time.monotonic()
    announcer.tell(alert)
    assert time.monotonic() - begun < 0.5
    announcer.wait()
    assert sentences(settings) == [alert.sentence]


def test_a_full_disk_does_not_keep_an_alert_from_being_told(
    small_disk: Path, settings: AlertSettings, alert: Alert, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GPT2FLOW_HOME", str(small_disk))
    subprocess.run(["dd", "if=/dev/zero", f"of={small_disk / 'ballast'}", "bs=4k"], check=False, capture_output=True)
    with Announcer(settings, "demo") as announcer:
        announcer.tell(alert)
        announcer.tell(alert)
    assert sentences(settings) == [alert.sentence]


def test_a_failure_is_told_and_a_stop_is_not(settings: AlertSettings) -> None:
    with pytest.raises(ValueError, match="no markup"), telling_of_failure(settings, "demo"):
        raise ValueError("the text is empty [/no markup]")
    with pytest.raises(Interrupted), telling_of_failure(settings, "demo"):
        raise Interrupted(15)
    with pytest.raises(Interrupted), telling_of_failure(settings, "demo"):
        raise ValueError("Task run is not set") from Interrupted(15)
    assert sentences(settings) == ["'demo' has failed: the text is empty [/no markup]"]
    with pytest.raises(ValueError), telling_of_failure(AlertSettings(file=settings.file, failed=False), "other"):
        raise ValueError
    assert len(sentences(settings)) == 1


def test_a_test_says_of_everybody_whether_it_arrived(
    web: WebServer, settings: AlertSettings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HOOK", f"http://{web.base}/{SECRET}")
    good = settings.model_copy(update={"addresses": ["env:HOOK"]})
    assert try_receivers(good, "demo")
    assert not try_receivers(good.model_copy(update={"commands": ["false"]}), "demo")
    printed = capsys.readouterr().out
    assert "env:HOOK: delivered" in printed
    assert "exit code 1" in printed
    assert SECRET not in printed
