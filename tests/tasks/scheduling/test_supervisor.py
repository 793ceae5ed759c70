"""A supervisor of small real processes: what dies or hangs is started again."""

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from configs.errors import UserError
from tasks.scheduling import supervisor
from tasks.scheduling.supervisor import Supervisor, bring_down
from tasks.servers.running import read_record, record
from tasks.servers.server_process import ServerProcess, ServerSpec, free_port, stop_all
from tasks.workspace.folders import Workspace


@pytest.fixture
def served(tmp_path: Path) -> Iterator[list[ServerProcess]]:
    """A web server of one's own folder, and a process without a port."""
    port = free_port(6100)
    assert port is not None
    web = [sys.executable, "-m", "http.server", str(port), "--bind", "127.0.0.1", "--directory", str(tmp_path)]
    servers = [
        ServerProcess(ServerSpec("web", web, port, "/", tmp_path / "web.log")),
        ServerProcess(ServerSpec("worker", ["sleep", "600"], 0, "", tmp_path / "worker.log")),
    ]
    yield servers
    stop_all(servers)


def look_until(looking: Supervisor, happened: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not happened():
        looking.look()
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_what_dies_is_started_again_and_the_others_are_left_alone(
    served: list[ServerProcess], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "FIRST_WAIT", 0.2)
    workspace = Workspace(tmp_path)
    looking = Supervisor(workspace, served)
    look_until(looking, served[0].answers)
    before = [server.identity for server in served]
    os.kill(before[0].pid, signal.SIGKILL)
    look_until(looking, lambda: served[0].identity != before[0] and served[0].answers())
    assert served[1].identity == before[1]
    recorded = read_record(workspace)
    assert recorded is not None
    assert recorded.servers == [server.identity for server in served]
    assert (tmp_path / "web.previous.log").exists()


def test_what_dies_again_and_again_is_started_ever_more_rarely(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(supervisor, "FIRST_WAIT", 0.1)
    looking = Supervisor(Workspace(tmp_path), [ServerProcess(ServerSpec("worker", ["false"], 0, "", tmp_path / "log"))])
    look_until(looking, lambda: looking._members[0].deaths == 3)
    assert [line.split(" in ")[1].split(" s")[0] for line in capsys.readouterr().out.splitlines()] == ["0", "0", "0"]
    assert looking._members[0].again_at - time.monotonic() > 0.3


def test_what_no_longer_answers_is_killed_and_started_again(
    served: list[ServerProcess], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "FIRST_WAIT", 0.1)
    monkeypatch.setattr(supervisor, "HANG_LIMIT", 1.0)
    looking = Supervisor(Workspace(tmp_path), served)
    look_until(looking, served[0].answers)
    before = served[0].identity
    os.kill(before.pid, signal.SIGSTOP)
    look_until(looking, lambda: served[0].identity != before and served[0].answers())


def test_down_stops_what_a_killed_supervisor_has_left_and_says_when_there_is_nothing(
    served: list[ServerProcess], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GPT2FLOW_HOME", str(tmp_path))
    record(Workspace(tmp_path), served)
    file = tmp_path / "dashboard.json"
    file.write_text(file.read_text().replace(str(os.getpid()), str(2**22 + 1)))
    bring_down()
    assert not any(server.identity.is_alive() for server in served)
    with pytest.raises(UserError, match="Nothing runs"):
        bring_down()
