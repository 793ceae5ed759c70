"""A server that does not answer is named, with what to do about it."""

import subprocess
import sys
import threading
from base64 import b64encode
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from configs.errors import UserError
from tasks.servers import prefect_server

START = """
import os
from tasks.servers.prefect_server import start_prefect_server
from tasks.workspace.folders import Workspace

start_prefect_server(Workspace.current().create())
print(os.environ["PREFECT_API_URL"])
"""


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


def test_runs_that_start_at_once_have_servers_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("PREFECT_API_URL", "PREFECT_PROFILE"):
        monkeypatch.delenv(variable, raising=False)
    started = [subprocess.Popen([sys.executable, "-c", START], stdout=subprocess.PIPE, text=True) for _ in range(3)]
    urls = [process.communicate()[0].strip() for process in started]
    assert len(set(urls)) == 3 and all(url.startswith("http://127.0.0.1:") for url in urls)


class Asking(BaseHTTPRequestHandler):
    """Answers as Prefect does that asks for `ann:word`, which test_team.py shows of the real one."""

    def do_GET(self) -> None:
        right = self.headers["Authorization"] == f"Basic {b64encode(b'ann:word').decode()}"
        self.send_response(200 if right or self.path == "/api/health" else 401)
        self.end_headers()

    def log_message(self, *_: object) -> None: ...


@pytest.mark.parametrize(
    ("given", "sentence"),
    [("", "wants a password: set"), ("ann:s3cret", "wants a password, another one than")],
)
def test_a_wrong_password_is_one_sentence_that_does_not_repeat_it(
    given: str, sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = HTTPServer(("127.0.0.1", 0), Asking)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("PREFECT_API_URL", f"http://127.0.0.1:{server.server_port}/api")
    monkeypatch.setenv("PREFECT_API_AUTH_STRING", given)
    with pytest.raises(UserError, match=sentence) as refused:
        prefect_server.wait_for_prefect(starting=False)
    assert "s3cret" not in str(refused.value)
    monkeypatch.setenv("PREFECT_API_AUTH_STRING", "ann:word")
    prefect_server.wait_for_prefect(starting=False)
    server.shutdown()
    server.server_close()
