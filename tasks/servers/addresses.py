"""Where a flow run and an MLflow run are looked at, for links between the two.

Without a server of one's own these are the pages that `gpt2flow dashboard` and `gpt2flow up` serve from the same databases.
"""

from __future__ import annotations

import os
from uuid import UUID

from tasks.servers.running import running_dashboard
from tasks.workspace.folders import Workspace

PREFECT_PAGE, MLFLOW_PAGE = "http://127.0.0.1:4200", "http://127.0.0.1:5000"


def flow_run_page(flow_run: UUID | str) -> str:
    """Address of a flow run's page in Prefect."""
    api = os.environ.get("PREFECT_API_URL", "").rstrip("/").removesuffix("/api")
    page = os.environ.get("PREFECT_UI_URL") or api or PREFECT_PAGE
    return f"{page.rstrip('/')}/runs/flow-run/{flow_run}"


def mlflow_run_page(experiment: str, run: str) -> str:
    """Address of a run's page in MLflow."""
    tracking = os.environ.get("MLFLOW_TRACKING_URI", "")
    dashboard = running_dashboard(Workspace.current())
    served = dashboard.address_of("MLflow") if dashboard else ""
    page = tracking if tracking.startswith("http") else served.split("/#")[0] or MLFLOW_PAGE
    return f"{page.rstrip('/')}/#/experiments/{experiment}/runs/{run}"
