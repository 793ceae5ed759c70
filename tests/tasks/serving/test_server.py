"""The server listens where it may, says a line that works, and ends when it is asked to.

Also tests `tasks.serving.served_model`.
"""

import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from configs.errors import UserError
from tasks.servers.server_process import free_port
from tasks.serving.served_model import ServedModel
from tasks.serving.server import require_protection


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "127.9.9.9"])
def test_this_machine_needs_no_key(host: str) -> None:
    require_protection(host, protected=False)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.0.7", "gpu.example"])
def test_others_need_one_or_a_decision(host: str) -> None:
    with pytest.raises(UserError, match="GPT2FLOW_KEY"):
        require_protection(host, protected=False)
    require_protection(host, protected=True)


def test_an_unknown_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="There is no run"):
        ServedModel("nothing-of-the-name", "auto")


def test_the_line_that_it_says_works_and_a_signal_ends_it(golden: Path) -> None:
    port = free_port(38211)
    model = str(golden / "openai-tiny" / "models" / "tiny")
    command = [sys.executable, "-u", "-m", "flows.cli", "serve", model, "--port", str(port)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=os.environ) as process:
        assert process.stdout is not None
        said: list[str] = []
        while not any("curl" in line for line in said):
            said.append(process.stdout.readline())
            assert said[-1], "".join(said)
        words = shlex.split(said[-1])
        url, body = next(word for word in words if word.startswith("http")), words[words.index("-d") + 1]
        answer = httpx.post(url, content=body, headers={"Content-Type": "application/json"}, timeout=60)
        assert answer.json()["choices"][0]["text"]
        process.send_signal(signal.SIGINT)
        rest = process.stdout.read()
        assert process.wait(60) in (0, 130), rest
        assert "Traceback" not in rest
