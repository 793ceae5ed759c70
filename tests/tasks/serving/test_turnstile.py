"""A client that goes away, from a real server: what it asked for ends, and the next one is answered."""

import json
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from serving import served

from gpt2core.generation.decoding import Continuation
from tasks.serving.application import make_application
from tasks.serving.served_model import ServedModel

STEP = 0.02
"""Seconds that a token takes here at least, so that 4,000 of them take longer than any test waits."""


class Computed:
    """Counts the tokens that were computed."""

    def __init__(self) -> None:
        self.steps = 0

    def wait_for(self, more: int) -> None:
        until, deadline = self.steps + more, time.monotonic() + 60
        while self.steps < until:
            assert time.monotonic() < deadline
            time.sleep(STEP)

    def stands_still(self) -> bool:
        """Whether no token more comes for a while, once the one has come that was under way."""
        time.sleep(10 * STEP)
        before = self.steps
        time.sleep(20 * STEP)
        return self.steps == before


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> Computed:
    found, step = Computed(), Continuation.step

    def slowly(*arguments: object) -> object:
        time.sleep(STEP)
        found.steps += 1
        return step(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(Continuation, "step", slowly)
    return found


@pytest.fixture
def port(golden: Path, computed: Computed) -> Iterator[int]:
    model = ServedModel(str(golden / "openai-tiny" / "models" / "tiny"), "float32")
    with served(make_application(model), 38311) as address:
        yield int(address.rpartition(":")[2])


def ask(port: int, **body: object) -> socket.socket:
    """A socket on which a request for 4,000 tokens was sent, and that nobody reads."""
    content = json.dumps({"prompt": "Hello", "max_tokens": 4000, **body}).encode()
    head = f"POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Length: {len(content)}\r\n\r\n"
    connection = socket.create_connection(("127.0.0.1", port))
    connection.sendall(head.encode() + content)
    return connection


@pytest.mark.parametrize("stream", [False, True])
def test_what_a_client_asked_for_ends_when_it_goes_away(port: int, computed: Computed, stream: bool) -> None:
    connection = ask(port, stream=stream)
    computed.wait_for(3)
    connection.close()
    assert computed.stands_still()
    answer = httpx.post(f"http://127.0.0.1:{port}/v1/completions", json={"prompt": "a", "max_tokens": 1}, timeout=20)
    assert answer.status_code == 200


@pytest.mark.parametrize("stream", [False, True])
def test_one_that_goes_away_while_it_waits_is_never_computed(port: int, computed: Computed, stream: bool) -> None:
    first = ask(port)
    computed.wait_for(1)
    waiting = [ask(port, stream=stream) for _ in range(3)]
    computed.wait_for(5)
    for connection in (*waiting, first):
        connection.close()
    assert computed.stands_still()
