"""Two whole promotions of one model at the same time, in processes of their own, through one MLflow server."""

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from tasks.promotion.ledger import Ledger
from tasks.registry.lookup import Aliases, aliases_of
from tasks.servers.server_process import ServerProcess, ServerSpec, free_port, stop_all
from tasks.workspace.folders import Workspace

PATIENCE = 300.0  # seconds
FAST = ("--samples", "4", "--sample-tokens", "40", "--rules.seconds-per-token", "null")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    """Address of an MLflow server over the database of the tests' workspace."""
    port = free_port(8700)
    assert port is not None
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    storage = ["--backend-store-uri", Workspace.current().mlflow_database]
    process = ServerProcess(ServerSpec("MLflow", command + storage, port, "/health", tmp_path / "server.log"))
    try:
        deadline = time.monotonic() + PATIENCE
        while not process.answers():
            assert time.monotonic() < deadline, process.last_words()
            time.sleep(0.5)
        yield f"http://127.0.0.1:{port}"
    finally:
        stop_all([process])


@pytest.mark.slow
def test_one_of_two_promotes_and_the_other_says_that_the_champion_moved(foundry: Any, model_name: str, server: str) -> None:
    old, new = foundry.against(model_name, foundry.noised(foundry.good, 0.5, 1), foundry.good)
    command = [sys.executable, "-u", "-m", "flows.cli", "promote", model_name, *FAST]
    environment = {**os.environ, "MLFLOW_TRACKING_URI": server}
    both = [
        subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        for _ in range(2)
    ]
    outputs = [re.sub(r"\s+", " ", process.communicate(timeout=PATIENCE)[0]) for process in both]
    first, second = sorted(zip([process.returncode for process in both], outputs, strict=True))
    assert first[0] == 0, outputs
    assert "promoted" in first[1]
    assert second[0] == 2, outputs
    assert f"was version {old} and is {new} now, moved by somebody meanwhile: run the same command again" in second[1]
    assert Aliases.of(aliases_of(MlflowClient(), model_name)) == Aliases(champion=new, previous=old)
    assert [entry.decision.verdict for entry in Ledger(MlflowClient(), model_name).entries()] == ["promoted"]
