"""Links lead to the pages that are served."""

import pytest

from tasks.servers.addresses import flow_run_page, mlflow_run_page


def test_a_link_goes_where_pages_are_served(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PREFECT_UI_URL", raising=False)
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    assert flow_run_page("1") == "http://127.0.0.1:4200/runs/flow-run/1"
    monkeypatch.setenv("PREFECT_API_URL", "https://prefect.example/api/")
    assert flow_run_page("1") == "https://prefect.example/runs/flow-run/1"
    monkeypatch.setenv("PREFECT_UI_URL", "https://pages.example/")
    assert flow_run_page("1") == "https://pages.example/runs/flow-run/1"


def test_a_run_is_linked_where_mlflow_is_or_will_be_served(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///mlflow.db")
    assert mlflow_run_page("7", "abc") == "http://127.0.0.1:5000/#/experiments/7/runs/abc"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://mlflow.example/")
    assert mlflow_run_page("7", "abc") == "https://mlflow.example/#/experiments/7/runs/abc"
