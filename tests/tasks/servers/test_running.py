"""The record of a workspace's servers, and where they listen."""

import os
from pathlib import Path

import pytest

from configs.errors import UserError
from tasks.servers.pages import Listening, page_servers
from tasks.servers.running import read_record, record, refuse_second, running_dashboard, stop_leftovers
from tasks.servers.server_process import ServerProcess, ServerSpec
from tasks.workspace.folders import Workspace


def spec(folder: Path, name: str, port: int) -> ServerSpec:
    return ServerSpec(name, ["sleep", "600"], port, "/", folder / f"{name}.log")


def test_who_comes_later_finds_the_servers_and_is_refused(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    refuse_second(workspace)
    servers = [ServerProcess(spec(tmp_path, "Prefect", 4999)), ServerProcess(spec(tmp_path, "worker", 0))]
    record(workspace, servers)
    found = read_record(workspace)
    assert found is not None
    assert found == running_dashboard(workspace)
    assert (found.process.pid, found.server("worker")) == (os.getpid(), servers[1].identity)
    assert (found.address_of("Prefect"), found.address_of("worker"), found.address_of("MLflow")) == (
        "http://127.0.0.1:4999",
        "",
        "",
    )
    with pytest.raises(UserError, match=r"runs already: Prefect http://127\.0\.0\.1:4999; stop"):
        refuse_second(workspace)
    stop_leftovers(workspace)
    assert servers[0].exit_code() is not None
    assert found.address_of("Prefect") == ""


def test_a_server_that_the_environment_names_is_not_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PREFECT_API_URL", "http://elsewhere:4200/api")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///mlflow.db")
    assert [server.name for server in page_servers(Workspace(tmp_path), Listening(5777, 4777))] == ["MLflow"]
    assert "http://elsewhere:4200   (PREFECT_API_URL" in capsys.readouterr().out


def test_what_the_one_before_said_of_its_end_is_kept(tmp_path: Path) -> None:
    log = tmp_path / "server.log"
    for words in ("first", "second"):
        command = ["sh", "-c", f"echo {words}"]
        server = ServerProcess(ServerSpec("server", command, 0, "", log))
        server.wait_until_gone()
    assert log.read_text() == "second\n"
    assert log.with_suffix(".previous.log").read_text() == "first\n"
