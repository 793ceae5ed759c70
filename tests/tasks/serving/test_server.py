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
from tasks.serving.server import serve_model


def test_others_need_a_key_or_a_decision(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GPT2FLOW_KEY", raising=False)
    with pytest.raises(UserError, match="use the model: set GPT2FLOW_KEY to a secret that callers send, add --unprotected"):
        serve_model(None, "0.0.0.0", 38200)


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
        assert "checkpoint" not in rest
