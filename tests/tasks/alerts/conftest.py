"""Receivers of alerts on this machine: a web server and a mail server, both real."""

import json
import socket
import threading
from collections.abc import Iterator
from email import message_from_bytes, policy
from email.message import EmailMessage
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, AuthResult, Envelope, Session

from configs.alerts import AlertSettings
from tasks.alerts import announcer
from tasks.alerts.alert import Alert


def unused_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


class WebServer(ThreadingHTTPServer):
    """Keeps path and body of what is posted to it; answers with `status`."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.status = 200
        self.posted: list[tuple[str, dict[str, Any]]] = []
        self.base = f"127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    server: WebServer

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.posted.append((self.path, json.loads(body)))
        self.send_response(self.server.status)
        if self.server.status == HTTPStatus.FOUND:
            self.send_header("Location", "/elsewhere")
        self.end_headers()

    def do_GET(self) -> None:
        self.send_response(HTTPStatus.OK)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Silent."""


class MailServer(Controller):
    """Takes mail from those who log in as ann with the password s3cret-pass."""

    def __init__(self) -> None:
        self.mails: list[EmailMessage] = []
        self.place = f"127.0.0.1:{unused_port()}"
        security = {"authenticator": self._check, "auth_require_tls": False, "auth_required": True}
        super().__init__(self, hostname="127.0.0.1", port=int(self.place.split(":")[1]), **security)  # type: ignore[arg-type]

    def _check(self, _server: SMTP, _session: Session, _envelope: Envelope, _mechanism: str, data: Any) -> AuthResult:
        return AuthResult(success=(data.login, data.password) == (b"ann", b"s3cret-pass"))

    async def handle_DATA(self, _server: SMTP, _session: Session, envelope: Envelope) -> str:  # noqa: N802
        assert isinstance(envelope.content, bytes)
        self.mails.append(message_from_bytes(envelope.content, policy=policy.default))  # type: ignore[arg-type]
        return "250 OK"


@pytest.fixture
def web() -> Iterator[WebServer]:
    with WebServer() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture
def mail() -> Iterator[MailServer]:
    server = MailServer()
    server.start()
    yield server
    server.stop()


@pytest.fixture
def alert() -> Alert:
    return Alert("loss spike", "demo", "Run demo-1234: The loss is 9.000 at step 50, 2.000 above what the steps before had.")


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(announcer, "PAUSE", 0.01)


@pytest.fixture(autouse=True)
def workspace(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GPT2FLOW_HOME", str(tmp_path / "workspace"))


@pytest.fixture
def settings(tmp_path: Any) -> AlertSettings:
    """With a file of their own."""
    return AlertSettings(file=tmp_path / "told.jsonl")
