"""The one folder that holds all state, and the environment that points Prefect and MLflow at it."""

from __future__ import annotations

import errno
import os
import shutil
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from configs.errors import UserError
from tasks.workspace.team_file import read_team_file

LEAST_FREE = 10_000_000  # bytes; two new databases take 3 MB


@dataclass(frozen=True)
class Workspace:
    """GPT2FLOW_HOME (default .gpt2flow/): MLflow database and artifacts, Prefect home, tokenizers, token stores, runs."""

    root: Path

    @classmethod
    def current(cls) -> Workspace:
        """The workspace that the environment names."""
        return cls(Path(os.environ.get("GPT2FLOW_HOME", ".gpt2flow")).absolute())

    @property
    def prefect_home(self) -> Path:
        """Prefect's database and settings."""
        return self.root / "prefect"

    @property
    def mlflow_database(self) -> str:
        """Tracking URI of the local MLflow database."""
        return f"sqlite:///{self.root / 'mlflow' / 'mlflow.db'}"

    @property
    def mlflow_artifacts(self) -> Path:
        """Samples, reports and registered models."""
        return self.root / "mlflow" / "artifacts"

    @property
    def tokenizers(self) -> Path:
        """Trained vocabularies, a folder each."""
        return self.root / "tokenizers"

    @property
    def stores(self) -> Path:
        """Published token stores, a folder each, named by the hash of what went in."""
        return self.root / "stores"

    @property
    def fetched_models(self) -> Path:
        """Copies of registered models whose files lie elsewhere."""
        return self.root / "fetched-models"

    @property
    def copy_indexes(self) -> Path:
        """Indexes in which copied passages are looked up, a folder for each token store."""
        return self.root / "copy-indexes"

    @property
    def learnt(self) -> Path:
        """Hashes of the documents that models have learnt from whose token stores are gone."""
        return self.root / "learnt"

    @property
    def trash(self) -> Path:
        """What was removed and whose files are going."""
        return self.root / "trash"

    @property
    def promotions(self) -> Path:
        """Copies of the decisions about registered models, a folder a model."""
        return self.root / "promotions"

    @property
    def runs(self) -> Path:
        """Runs, a folder each: state, checkpoints, metrics, samples."""
        return self.root / "runs"

    @property
    def flow_runs(self) -> Path:
        """Locks and output of flow runs that are under way."""
        return self.root / "flow-runs"

    @property
    def nights(self) -> Path:
        """What nights were trained on and came to, a folder for each config."""
        return self.root / "nights"

    @property
    def alerts(self) -> Path:
        """What somebody was told of."""
        return self.root / "alerts"

    def require(self) -> Workspace:
        """The workspace, if it is there; raises UserError where it is not."""
        if not self.runs.is_dir():
            raise UserError(f"There is no workspace at {self.root}: set GPT2FLOW_HOME to where yours lies.")
        return self

    def create(self) -> Workspace:
        """Make the folders; raises UserError where that is not allowed or the disk is full."""
        try:
            for folder in (self.prefect_home, self.mlflow_artifacts, self.tokenizers, self.stores, self.runs):
                folder.mkdir(parents=True, exist_ok=True)
                if not os.access(folder, os.W_OK):
                    raise OSError(errno.EACCES, f"{folder.name}/ is read-only")
        except OSError as error:
            raise UserError(
                f"The workspace {self.root} cannot be written ({error.strerror}): set GPT2FLOW_HOME to a folder that you own."
            ) from error
        if shutil.disk_usage(self.root).free < LEAST_FREE:
            raise UserError(f"The disk is full at {self.root}: free some space, or set GPT2FLOW_HOME to another disk.")
        return self


def point_environment(workspace: Workspace) -> None:
    """Send Prefect's and MLflow's state to the workspace and switch telemetry off; what the user has set stays.

    Must run before either library is imported. What is wrong with the workspace's team.env, the command line says later.
    """
    with suppress(UserError):
        _set_where_unset(read_team_file(workspace.root))
    if password := os.environ.get("PREFECT_SERVER_API_AUTH_STRING"):
        os.environ.setdefault("PREFECT_API_AUTH_STRING", password)  # of a server that is started here
    defaults = {
        "PREFECT_HOME": str(workspace.prefect_home),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL",
        # One event at a time, the default, is too slow: when a run's own server ends with the run, task states are lost
        # and it prints a traceback. In batches it catches up before it ends.
        "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_BATCH_SIZE": "200",
        "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_FLUSH_INTERVAL": "1",
        "PREFECT_SERVER_LOGGING_LEVEL": "CRITICAL",
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",  # a busy machine needs more than the usual 20
        "DO_NOT_TRACK": "1",
        "MLFLOW_TRACKING_URI": workspace.mlflow_database,
        "MLFLOW_DISABLE_TELEMETRY": "true",
        # Files go through MLflow's server: who uses it need not reach the place where it keeps them.
        "MLFLOW_ENABLE_PROXY_MULTIPART_DOWNLOAD": "false",
        "MLFLOW_ENABLE_PROXY_MULTIPART_UPLOAD": "false",
        "MLFLOW_LOGGING_LEVEL": "WARNING",
        "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
        "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
        "MLFLOW_SKIP_PIP_REQUIREMENTS_CHECK": "true",
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
        "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
        "GIT_PYTHON_REFRESH": "quiet",
    }
    _set_where_unset(defaults)


def _set_where_unset(values: dict[str, str]) -> None:
    for name, value in values.items():
        os.environ.setdefault(name, value)
