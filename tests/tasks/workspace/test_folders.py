"""The workspace: one folder for all state, refused in one sentence where it cannot be."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from configs.errors import UserError
from tasks.workspace.folders import Workspace


def test_a_place_that_cannot_be_written_is_named_with_the_remedy() -> None:
    with pytest.raises(UserError, match=r"/proc/nowhere cannot be written .*: set GPT2FLOW_HOME to a folder that you own"):
        Workspace(Path("/proc/nowhere")).create()


def test_a_full_disk_is_named_before_anything_starts(small_disk: Path) -> None:
    with pytest.raises(UserError, match=f"The disk is full at {small_disk}: free some space"):
        Workspace(small_disk).create()


def test_a_workspace_that_became_read_only_is_named_with_the_remedy(small_disk: Path) -> None:
    with pytest.raises(UserError, match="full"):  # its folders are made before
        Workspace(small_disk).create()
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with pytest.raises(UserError, match=r"cannot be written \(prefect/ is read-only\): set GPT2FLOW_HOME"):
        Workspace(small_disk).create()


@pytest.mark.parametrize("module", ["flows.finetune", "tasks.tracking"])
def test_whoever_imports_the_pipeline_keeps_state_in_the_workspace_and_sends_nothing_home(module: str, tmp_path: Path) -> None:
    script = (
        f"import {module}, os, mlflow, prefect.settings\n"
        "print(prefect.settings.get_current_settings().home)\n"
        "print(prefect.settings.get_current_settings().server.analytics_enabled)\n"
        "print(mlflow.get_tracking_uri())\n"
        "print(os.environ['MLFLOW_DISABLE_TELEMETRY'], os.environ['DO_NOT_TRACK'])\n"
        "print(os.environ['MLFLOW_ENABLE_PROXY_MULTIPART_DOWNLOAD'])  # files come from its server, wherever it keeps them\n"
    )
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("PREFECT_", "MLFLOW_", "DO_NOT"))}
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, env={**clean, "GPT2FLOW_HOME": str(tmp_path)}, capture_output=True, text=True, check=True)
    assert done.stdout.split() == [
        f"{tmp_path}/prefect",
        "False",
        f"sqlite:///{tmp_path}/mlflow/mlflow.db",
        "true",
        "1",
        "false",
    ]


def test_what_the_user_has_set_stays(tmp_path: Path) -> None:
    script = "import tasks, os; print(os.environ['MLFLOW_TRACKING_URI'])"
    environment = {**os.environ, "MLFLOW_TRACKING_URI": "http://127.0.0.1:9"}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "http://127.0.0.1:9"
