"""Mirrors a run's folder to MLflow: one MLflow run a fine-tune, every step exactly once, in a thread beside training.

The folder is the truth; whatever MLflow missed is delivered when it answers again.
"""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path
from typing import Any

import mlflow
from mlflow import MlflowClient
from mlflow.data.meta_dataset import MetaDataset
from mlflow.data.sources import LocalArtifactDatasetSource  # type: ignore[attr-defined]
from mlflow.entities import DatasetInput, Metric, Param
from mlflow.exceptions import MlflowException

from configs.schema import RunConfig
from gpt2core.metrics import MetricsLog
from gpt2core.token_store import TokenStore
from tasks.console import warn
from tasks.run_folder import RunFolder
from tasks.workspace import Workspace

DELIVERY_INTERVAL = 5.0  # seconds
LARGEST_BATCH = 500  # metrics; MLflow refuses more than 1,000


class Tracking:
    """The MLflow side of one run; use as a context manager around the work."""

    def __init__(self, folder: RunFolder, config: RunConfig, store: TokenStore) -> None:
        self._folder = folder
        self._client = MlflowClient()
        self.run_id = folder.read("run").get("mlflow_run_id") or self._create_run(config, store)
        self._client.update_run(self.run_id, status="RUNNING")
        self._delivered = {log.path.name: self._last_step(key) for key, log in self._logs().items()}
        self._samples_sent: set[str] = set()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._deliver_often, name="mlflow-delivery", daemon=True)

    def __enter__(self) -> Tracking:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        self._closing.set()
        self._thread.join()
        if (problem := self._deliver()) is not None:
            warn("tracking", f"MLflow did not take the last figures ({problem}); they stand in {self._folder.path}")
            return
        status = "FINISHED" if kind is None else "FAILED" if issubclass(kind, Exception) else "KILLED"
        self._client.set_terminated(self.run_id, status)

    def _create_run(self, config: RunConfig, store: TokenStore) -> str:
        experiment = self._client.get_experiment_by_name(config.name)
        experiment_id = experiment.experiment_id if experiment else create_experiment(self._client, config.name)
        run_id: str = self._client.create_run(experiment_id, run_name=self._folder.id).info.run_id
        self._folder.write("run", {**self._folder.read("run"), "mlflow_run_id": run_id})
        params = [Param(key, text) for key, text in flatten(config.model_dump()).items()]
        self._client.log_batch(run_id, params=params)
        dataset = MetaDataset(  # type: ignore[abstract]
            LocalArtifactDatasetSource(str(store.path)), name=config.name, digest=store.hash[:36]
        )
        self._client.log_inputs(run_id, [DatasetInput(dataset._to_mlflow_entity())])
        return run_id

    def _logs(self) -> dict[str, MetricsLog]:
        return {
            "loss": self._folder.metrics,
            "tokens_per_second": self._folder.timing,
            "val_loss": self._folder.evaluations,
        }

    def _last_step(self, key: str) -> int:
        return max((metric.step for metric in self._client.get_metric_history(self.run_id, key)), default=-1)

    def _deliver_often(self) -> None:
        while not self._closing.wait(DELIVERY_INTERVAL):
            self._deliver()

    def _deliver(self) -> str | None:
        """Send what is new; returns the problem if MLflow does not answer (the next call tries again)."""
        try:
            for log in self._logs().values():
                self._deliver_rows(log)
            self._deliver_samples()
        except (MlflowException, OSError) as error:
            return str(error).splitlines()[0][:120]
        return None

    def _deliver_rows(self, log: MetricsLog) -> None:
        now = int(time.time() * 1000)
        rows = [row for row in log.rows() if row["step"] > self._delivered[log.path.name]]
        rows_at_once = max(1, LARGEST_BATCH // max((len(row) for row in rows), default=1))
        for start in range(0, len(rows), rows_at_once):
            part = rows[start : start + rows_at_once]
            metrics = [Metric(k, v, now, int(row["step"])) for row in part for k, v in row.items() if k != "step"]
            self._client.log_batch(self.run_id, metrics=metrics)
            self._delivered[log.path.name] = int(part[-1]["step"])

    def _deliver_samples(self) -> None:
        texts = sorted(self._folder.samples.glob("*.txt"))
        new = [text for text in texts if text.name not in self._samples_sent]
        for text in new:
            self._client.log_artifact(self.run_id, str(text), "samples")
        if new:
            self._log_samples_table([text.with_suffix(".json") for text in texts])
            self._samples_sent.update(text.name for text in new)

    def _log_samples_table(self, files: list[Path]) -> None:
        """One table of all samples, in the form that MLflow's table view reads."""
        samples = [sample for file in files for sample in json.loads(file.read_text(encoding="utf-8"))]
        columns = ["step", "prompt", "completion"]
        table = {"columns": columns, "data": [[sample[column] for column in columns] for sample in samples]}
        self._client.log_dict(self.run_id, table, "samples.json")
        self._client.set_tag(self.run_id, "mlflow.loggedArtifacts", '[{"path": "samples.json", "type": "table"}]')


def create_experiment(client: MlflowClient, name: str) -> str:
    """A new experiment; with the local database its artifacts go to the workspace, with a server where the server says."""
    workspace = Workspace.current()
    local = mlflow.get_tracking_uri() == workspace.mlflow_database
    location = (workspace.mlflow_artifacts / name).as_uri() if local else None
    experiment_id: str = client.create_experiment(name, artifact_location=location)
    return experiment_id


def flatten(values: dict[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested settings as MLflow parameters: {'train.steps': '300'}."""
    flat: dict[str, str] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = json.dumps(value, ensure_ascii=False) if isinstance(value, list) else str(value)
    return flat
