"""Questions to a Prefect server, asked again as its own client asks again: a database that is locked for a moment is a 503."""

import json
import time
from collections.abc import Mapping
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

PATIENCE = 60.0  # seconds
JSON = {"Content-Type": "application/json"}


def ask(url: str, body: object = None, headers: Mapping[str, str] = JSON) -> Any:
    """What it answers, None where that is nothing; raises OSError where it does not answer."""
    data, deadline = json.dumps(body).encode() if body is not None else None, time.monotonic() + PATIENCE
    while True:
        try:
            with urlopen(Request(url, data, dict(headers)), timeout=30) as answer:
                return json.loads(answer.read() or b"null")
        except HTTPError as error:
            if error.code != 503 or time.monotonic() > deadline:
                raise
        time.sleep(0.5)
