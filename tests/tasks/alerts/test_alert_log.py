"""Repeats are folded and counted, across processes and restarts, and said when they are told."""

from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from datetime import datetime, timedelta
from multiprocessing import get_context

import pytest

from tasks.alerts import alert_log
from tasks.alerts.alert import Alert
from tasks.alerts.alert_log import AlertLog
from tasks.workspace.folders import Workspace

HOUR = 3600.0


def later(alert: Alert, seconds: float) -> Alert:
    return replace(alert, time=(datetime.fromisoformat(alert.time) + timedelta(seconds=seconds)).isoformat())


def log() -> AlertLog:
    return AlertLog(Workspace.current())


def test_repeats_within_the_time_are_folded_and_said_with_the_next_one(alert: Alert) -> None:
    assert log().note(alert, HOUR) == alert
    assert [log().note(later(alert, seconds), HOUR) for seconds in (1, 60, 3599)] == [None] * 3
    told = log().note(later(alert, 3601), HOUR)
    assert told and told.more == 3
    assert told.sentence == f"{alert.text} (3 times more since it was told at {alert.time})"
    assert [(entry.repeats, entry.more) for entry in log().entries()] == [(0, 0), (0, 3)]


def test_what_lasts_is_told_anew_and_not_counted_each_time_that_somebody_looks(alert: Alert) -> None:
    lasting = replace(alert, kind="disk low")
    assert log().note(lasting, HOUR) == lasting
    assert [log().note(later(lasting, seconds), HOUR) for seconds in range(60, 3600, 60)] == [None] * 59
    assert log().unfold(alert.subject) == []
    told = log().note(later(lasting, 3601), HOUR)
    assert told and told.sentence == alert.text


def test_another_run_and_another_kind_are_not_folded(alert: Alert) -> None:
    for other in (alert, replace(alert, subject="other"), replace(alert, kind="slow")):
        assert log().note(other, HOUR) == other


def test_the_end_of_a_run_tells_once_what_was_folded(alert: Alert) -> None:
    log().note(alert, HOUR)
    assert log().unfold("demo") == []
    log().note(later(alert, 60), HOUR)
    [told] = log().unfold("demo")
    assert "1 time more since" in told.sentence
    assert log().unfold("demo") == []
    assert [entry.more for entry in log().entries()] == [1]


def test_many_processes_tell_the_same_once(alert: Alert) -> None:
    with ProcessPoolExecutor(2, get_context("fork")) as pool:
        told = list(pool.map(_note, [alert] * 20))
    assert sum(told) == 1
    assert log().entries()[0].repeats == 19


def test_the_log_is_bounded_and_a_damaged_one_begins_again(alert: Alert, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(alert_log, "MOST_KEPT", 10)
    for number in range(15):
        log().note(replace(alert, subject=f"run {number}"), HOUR)
    assert [entry.subject for entry in log().entries()] == [f"run {number}" for number in range(5, 15)]
    file = Workspace.current().alerts / "alerts.json"
    file.write_text(file.read_text()[:-20])
    assert log().note(alert, HOUR) == alert
    assert len(log().entries()) == 1


def _note(alert: Alert) -> bool:
    return log().note(alert, HOUR) is not None
