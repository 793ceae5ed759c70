"""Two whole promotions of one model at the same time, in processes of their own, through one MLflow server."""

import os
import re
import sys
from pathlib import Path
from subprocess import PIPE, STDOUT, Popen
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow_server import mlflow_server

from tasks.promotion.ledger import Ledger
from tasks.registry.lookup import Aliases, aliases_of
from tasks.workspace.folders import Workspace

PATIENCE = 300.0  # seconds
FAST = ("--samples", "4", "--sample-tokens", "40", "--rules.seconds-per-token", "null")


@pytest.mark.slow
def test_one_of_two_promotes_and_the_other_says_that_the_champion_moved(foundry: Any, model_name: str, tmp_path: Path) -> None:
    old, new = foundry.against(model_name, foundry.noised(foundry.good, 0.5, 1), foundry.good)
    command = [sys.executable, "-u", "-m", "flows.cli", "promote", model_name, *FAST]
    with mlflow_server(Workspace.current().mlflow_database, tmp_path) as address:
        environment = {**os.environ, "MLFLOW_TRACKING_URI": address}
        both = [Popen(command, env=environment, stdout=PIPE, stderr=STDOUT, text=True) for _ in range(2)]
        outputs = [re.sub(r"\s+", " ", process.communicate(timeout=PATIENCE)[0]) for process in both]
    first, second = sorted(zip([process.returncode for process in both], outputs, strict=True))
    assert first[0] == 0, outputs
    assert "promoted" in first[1]
    assert second[0] == 2, outputs
    assert f"was version {old} and is {new} now, moved by somebody meanwhile: run the same command again" in second[1]
    assert Aliases.of(aliases_of(MlflowClient(), model_name)) == Aliases(champion=new, previous=old)
    assert [entry.decision.verdict for entry in Ledger(MlflowClient(), model_name).entries()] == ["promoted"]
