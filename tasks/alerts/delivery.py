"""The ways of an alert: a line in a file, a command, a web address, a mailbox or a service that Apprise knows.

Each returns the problem in a sentence that holds no secret, or None.
"""

from __future__ import annotations

import json
import logging
import os
import subprocess
import urllib.error
import urllib.request
from http.client import HTTPException
from pathlib import Path

from tasks.alerts.alert import Alert
from tasks.alerts.secret_addresses import without_secrets

LONGEST_PROBLEM = 200  # characters


def append_to_file(path: Path, alert: Alert) -> str | None:
    """Add a line of JSON."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(alert.as_json(), ensure_ascii=False) + "\n")
    except OSError as error:
        return f"{error.strerror}"
    return None


def run_command(command: str, alert: Alert, timeout: float) -> str | None:
    """Run a shell command; it gets the alert as JSON on its standard input, which no list of processes shows."""
    return run_with_input(command, json.dumps(alert.as_json()), timeout, {"GPT2FLOW_ALERT": alert.sentence})


def run_with_input(command: str, body: str, timeout: float, variables: dict[str, str]) -> str | None:
    """Run a shell command with this standard input and these variables beside those of this process."""
    environment = {**os.environ, **variables}
    try:
        done = subprocess.run(
            command, shell=True, input=body, text=True, capture_output=True, timeout=timeout, env=environment, check=False
        )
    except subprocess.TimeoutExpired:
        return f"it has not ended after {timeout:g} s"
    except OSError as error:
        return f"{error.strerror}"
    return None if done.returncode == 0 else f"exit code {done.returncode} {done.stderr.strip()[-LONGEST_PROBLEM:]}".strip()


def send(address: str, alert: Alert, timeout: float) -> str | None:
    """Send to an address that Apprise knows, in that service's form, or post JSON to any other web address."""
    problem = _notify(address, alert, timeout)
    return without_secrets(problem, address)[:LONGEST_PROBLEM] if problem else None


def _notify(address: str, alert: Alert, timeout: float) -> str | None:
    import apprise  # a tenth of a second, and mostly nothing is sent

    with _Problems() as problems:
        service = apprise.Apprise.instantiate(_with_timeouts(address, timeout), suppress_exceptions=True)
        if service is None:
            is_web = address.startswith(("http://", "https://"))
            return post_json(address, json.dumps(alert.as_json()), timeout) if is_web else "it is no address"
        try:
            done = service.notify(body=alert.sentence, title=alert.title)
        except Exception as error:  # of whichever library the service uses
            return f"{type(error).__name__} {error}"
    return None if done else problems.last


def _with_timeouts(address: str, timeout: float) -> str:
    """Apprise's own are four seconds."""
    return f"{address}{'&' if '?' in address else '?'}cto={timeout:g}&rto={timeout:g}"


class _RefuseRedirects(urllib.request.HTTPRedirectHandler):
    """A redirected post would be sent on as a GET without its body, and look as if it had arrived."""

    def redirect_request(self, *_: object) -> None:
        return None


def post_json(address: str, body: str, timeout: float) -> str | None:
    """With the standard library, since it writes no address into any log."""
    try:
        request = urllib.request.Request(address, body.encode(), {"Content-Type": "application/json"}, method="POST")
        with urllib.request.build_opener(_RefuseRedirects).open(request, timeout=timeout):
            return None
    except urllib.error.HTTPError as error:
        return f"status {error.code}" + (": name the address that it moved to" if error.code in range(300, 400) else "")
    except urllib.error.URLError as error:
        return str(error.reason)
    except (OSError, HTTPException, ValueError) as error:
        return f"{type(error).__name__} {error}"


class _Problems(logging.Filter):
    """Keeps what Apprise says from every log, since addresses may stand in it, and notes its last complaint."""

    def __init__(self) -> None:
        super().__init__()
        self.last = "it was not taken"

    def __enter__(self) -> _Problems:
        logging.getLogger("apprise").addFilter(self)
        return self

    def __exit__(self, *_: object) -> None:
        logging.getLogger("apprise").removeFilter(self)

    def filter(self, record: logging.LogRecord) -> bool:
        if record.levelno >= logging.WARNING:
            self.last = record.getMessage()
        return False
