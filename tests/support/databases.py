"""The databases of a new workspace, made once and then copied: Prefect and MLflow take some ten seconds to make them."""

import os
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

from gpt2core.machine.lock import locked
from tasks.workspace.folders import Workspace

MAKE = "import tasks; from tasks.workspace.databases import *; prepare_databases(Workspace.current().create())"
FILES = ("prefect/prefect.db", "mlflow/mlflow.db", "databases.json")


def with_databases(workspace: Workspace, cache: Path) -> Workspace:
    """The workspace with its folders, and databases unless it has some; `cache` is a folder that all tests share."""
    made = cache / f"prefect-{version('prefect')}-mlflow-{version('mlflow')}"
    with locked(cache / "lock"):
        if not (made / FILES[-1]).exists():
            environment = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "MLFLOW_"))}
            subprocess.run([sys.executable, "-c", MAKE], env={**environment, "GPT2FLOW_HOME": str(made)}, check=True)
    workspace.create()
    for file in FILES:
        if not (workspace.root / FILES[-1]).exists() and not (workspace.root / file).exists():
            shutil.copy(made / file, workspace.root / file)
    return workspace
