"""`gpt2flow play` from its command to the page, and its end."""

import signal
import subprocess
import sys
from pathlib import Path

import httpx

from tasks.play.server import play_model
from tasks.servers.server_process import HOST, free_port


def test_the_address_that_it_says_shows_the_page_and_a_signal_ends_it(golden: Path) -> None:
    port = str(free_port(38411))
    command = [sys.executable, "-u", "-m", "flows.cli", "play", str(golden / "gguf-tiny"), "--port", port]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        assert process.stdout is not None
        said: list[str] = []
        while not (said and said[-1].strip().startswith("http")):
            said.append(process.stdout.readline())
            assert said[-1], "".join(said)
        assert said[-1].strip() == f"http://{HOST}:{port}"
        assert "gguf-tiny" in httpx.get(said[-1].strip(), timeout=60).text
        process.send_signal(signal.SIGINT)
        rest = process.stdout.read()
        assert process.wait(60) in (0, 130), rest
        assert "Traceback" not in rest


def test_only_this_machine_may_look() -> None:
    assert "host" not in play_model.__annotations__
