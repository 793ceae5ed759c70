"""What Prefect's page cannot show, because its server is away, stops nothing; other mistakes do."""

import pytest
from prefect.artifacts import create_markdown_artifact
from prefect.settings import PREFECT_API_URL, temporary_settings

import tasks  # noqa: F401  # first: it points Prefect at the tests' workspace
from tasks.terminal.prefect_page import shown_if_served


def test_a_server_that_is_away_is_named_and_the_work_goes_on(capsys: pytest.CaptureFixture[str]) -> None:
    with temporary_settings({PREFECT_API_URL: "http://127.0.0.1:9/api"}), shown_if_served("the report"):
        create_markdown_artifact(markdown="# A report", key="report")
    assert "does not show the report (ConnectError): its server is away" in " ".join(capsys.readouterr().out.split())


def test_a_mistake_of_ours_is_not_hidden() -> None:
    with pytest.raises(ZeroDivisionError), shown_if_served("the report"):
        raise ZeroDivisionError
