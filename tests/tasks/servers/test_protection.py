"""One rule for all that serve: whom other machines reach, that asks for a secret, unless it is meant not to."""

from collections.abc import Callable
from pathlib import Path

import pytest

from configs.errors import UserError
from tasks.scheduling.supervisor import bring_up, bring_up_detached
from tasks.servers.dashboard import serve_dashboard
from tasks.servers.pages import Listening, page_servers, require_protected_pages
from tasks.servers.protection import from_here, require_protection
from tasks.workspace.folders import Workspace

MLFLOW, PREFECT = "MLFLOW_AUTH_ADMIN_PASSWORD", "PREFECT_SERVER_API_AUTH_STRING"
LONG = "a long password"
OTHERS = Listening(5777, 4777, host="0.0.0.0")


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (MLFLOW, PREFECT, "MLFLOW_AUTH_CONFIG_PATH", "PREFECT_API_URL", "PREFECT_UI_API_URL"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "127.9.9.9"])
def test_this_machine_needs_none(host: str) -> None:
    require_protection(host, False, "use it", "set KEY")


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.0.7", "gpu.example"])
def test_others_need_one_or_a_decision(host: str) -> None:
    with pytest.raises(UserError, match=f"Anybody who reaches {host} could use it: set KEY, add --unprotected"):
        require_protection(host, False, "use it", "set KEY")
    require_protection(host, True, "use it", "set KEY")


@pytest.mark.parametrize("start", [serve_dashboard, lambda on: bring_up(on, 1), lambda on: bring_up_detached(on, 1)])
def test_neither_up_nor_dashboard_starts_pages_for_others_without_passwords(
    start: Callable[[Listening], object], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("GPT2FLOW_HOME", str(tmp_path))
    with pytest.raises(UserError, match=f"change runs and models in MLflow: set {MLFLOW} to"):
        start(OTHERS)
    monkeypatch.setenv(MLFLOW, LONG)
    with pytest.raises(UserError, match=f"start programs through Prefect: set {PREFECT} to USER:PASSWORD"):
        start(OTHERS)
    assert list(tmp_path.iterdir()) == []


def test_passwords_or_a_decision_or_servers_elsewhere_will_do(monkeypatch: pytest.MonkeyPatch) -> None:
    require_protected_pages(Listening(host="0.0.0.0", unprotected=True))
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")
    monkeypatch.setenv(MLFLOW, LONG)
    require_protected_pages(OTHERS)
    monkeypatch.setenv(MLFLOW, "short")
    with pytest.raises(UserError, match="fewer than 12 characters"):
        require_protected_pages(OTHERS)


def test_no_secret_is_among_the_arguments_of_the_servers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(MLFLOW, LONG)
    monkeypatch.setenv(PREFECT, "ann:s3cret-word")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "postgresql://ann:s3cret-word@db/mlflow")
    servers = page_servers(Workspace(tmp_path).create(), OTHERS)
    assert [server.name for server in servers] == ["MLflow", "Prefect"]
    assert "basic-auth" in servers[0].command
    assert servers[0].environment["MLFLOW_BACKEND_STORE_URI"] == "postgresql://ann:s3cret-word@db/mlflow"
    shown = " ".join(part for server in servers for part in server.command)
    assert "s3cret" not in shown and LONG not in shown
    assert LONG not in Path(servers[0].environment["MLFLOW_AUTH_CONFIG_PATH"]).read_text()
    assert [server.page.split(":")[1] for server in servers] == ["//127.0.0.1", "//127.0.0.1"]


@pytest.mark.parametrize(
    ("host", "reached"), [("0.0.0.0", "127.0.0.1"), ("::", "127.0.0.1"), ("10.0.0.3", "10.0.0.3"), ("gpu", "gpu")]
)
def test_the_address_at_which_a_server_is_reached_from_here(host: str, reached: str) -> None:
    assert from_here(host) == reached
