"""A server that does not answer is named, with what to do about it."""

import pytest

from configs.errors import UserError
from tasks import prefect_server


@pytest.mark.parametrize(
    ("starting", "remedy"),
    [
        (False, "start it, or unset PREFECT_API_URL"),
        (True, r"run the same command again; prefect/run-server\.log in the workspace"),
    ],
)
def test_whose_server_it_is_decides_what_to_do(starting: bool, remedy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prefect_server, "PATIENCE", 0.0)
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")
    with pytest.raises(UserError, match=rf"http://127\.0\.0\.1:9/api does not answer: {remedy}"):
        prefect_server.wait_for_prefect(starting)
