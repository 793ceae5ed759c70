"""Mirrors a run's folder to MLflow: one MLflow run a fine-tune, every step exactly once, in a thread beside training.

The folder is the truth; whatever MLflow missed is delivered when it answers again, by this process or a later one.
"""

from __future__ import annotations

import bisect
import json
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import mlflow
from mlflow import MlflowClient
from mlflow.data.meta_dataset import MetaDataset
from mlflow.data.sources import LocalArtifactDatasetSource  # type: ignore[attr-defined]
from mlflow.entities import DatasetInput, Metric, Param, Run
from mlflow.exceptions import MlflowException

from configs.addresses import shown
from configs.errors import UserError
from tasks.runs.metrics_log import MetricsLog
from tasks.runs.run_folder import RunFolder
from tasks.terminal.console import warn
from tasks.tracking.away import AWAY
from tasks.workspace.elsewhere import artifact_location, mlflow_database, require_answer
from tasks.workspace.folders import Workspace

DELIVERY_INTERVAL = 5.0  # seconds
LARGEST_BATCH = 500  # metrics; MLflow refuses more than 1,000
LARGEST_READ = 1 << 20  # bytes of a log taken up at once
KEY = "gpt2flow.key"
NOTE = "mlflow.note.content"
"""Tag that MLflow's page shows as the description, which people may change."""
OUR_NOTE = "Prefect flow run ["
"""How the description begins that a run gets by itself."""

Status = Literal["RUNNING", "FINISHED", "FAILED", "KILLED"]


class Tracking:
    """The MLflow side of one run; use as a context manager around the work. Everything it needs stands in the folder.

    `tags` say who works on the run now.
    """

    def __init__(self, folder: RunFolder, tags: Mapping[str, str] | None = None) -> None:
        self._folder = folder
        self._tags = tags or {}
        self._client = MlflowClient()
        self._run_id: str | None = None
        self._connecting = threading.Lock()
        self._feeds = [Feed(log, key) for key, log in _logs(folder).items()]
        self._times: list[tuple[int, int]] = []
        self._samples_sent: set[int] = set()
        self._pages_sent: dict[Path, int] = {}
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._deliver_often, name="mlflow-delivery", daemon=True)

    def __enter__(self) -> Tracking:
        self._folder.write("tracking", {"status": "RUNNING"})
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        self._closing.set()
        self._thread.join()
        problem = self.settle("FINISHED" if kind is None else "FAILED" if issubclass(kind, Exception) else "KILLED")
        if problem:
            warn("tracking", f"MLflow did not take the last figures ({problem}); gpt2flow runs --sync delivers them later")

    def connect(self) -> str:
        """The id of the MLflow run, found or created; raises one of `AWAY` where MLflow does not answer."""
        with self._connecting:
            if self._run_id is None:
                if database := mlflow_database():
                    require_answer(database)  # MLflow itself would wait for minutes
                run = self._find_run() or self._create_run()
                self._client.update_run(run.info.run_id, status="RUNNING")
                for name, value in self._tags.items():
                    if name != NOTE or is_our_note(run.data.tags.get(NOTE)):
                        self._client.set_tag(run.info.run_id, name, value)
                for feed in self._feeds:
                    history = self._client.get_metric_history(run.info.run_id, feed.key)
                    feed.delivered = max((metric.step for metric in history), default=-1)
                self._run_id = run.info.run_id
            return self._run_id

    def require(self) -> str:
        """As `connect`; raises UserError where MLflow does not answer."""
        try:
            return self.connect()
        except AWAY as error:
            place = shown(mlflow.get_tracking_uri())
            raise UserError(
                f"MLflow at {place} does not answer ({_sentence(error)}): the model is not registered yet; run the same "
                "command again when it is back, nothing is trained twice."
            ) from error

    def begin_again(self) -> None:
        """The logs were cut back while this mirrors them.

        What MLflow has of the steps behind stays and is not sent again: they come before the update that diverged, so they
        are made again from the same windows and have the same values.
        """
        for feed in self._feeds:
            feed.begin_again()

    def settle(self, status: Status) -> str | None:
        """Deliver everything and set the run's last status; returns the problem if MLflow does not answer."""
        if (problem := self._deliver()) is not None:
            return problem
        try:
            self._client.set_terminated(self.connect(), status)
        except AWAY as error:
            return _sentence(error)
        self._folder.write("tracking", {"status": status})
        return None

    def _find_run(self) -> Run | None:
        """The MLflow run whose id the folder knows, or, where a kill came before that was written, the one with its key."""
        record = self._folder.record
        try:
            if record.mlflow_run_id:
                run = self._client.get_run(record.mlflow_run_id)
                if run.info.lifecycle_stage == "active":
                    return self._described(run)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
        found = self._client.search_runs([self._experiment()], f"tags.`{KEY}` = '{record.key}'")
        return self._described(found[0]) if found else None

    def _create_run(self) -> Run:
        tags = {KEY: self._folder.record.key}
        return self._described(self._client.create_run(self._experiment(), tags=tags, run_name=self._folder.id))

    def _described(self, run: Run) -> Run:
        """Complete what a kill may have left out: the id in the folder, the parameters, the token store."""
        record, run_id = self._folder.record, run.info.run_id
        if record.mlflow_run_id != run_id:
            ids = {"mlflow_run_id": run_id, "mlflow_experiment_id": run.info.experiment_id}
            self._folder.write_record(record.model_copy(update=ids))
        if not run.data.params:
            params = [Param(key, text) for key, text in flatten(record.settings).items()]
            self._client.log_batch(run_id, params=params)
        if run.inputs is None or not run.inputs.dataset_inputs:
            source = LocalArtifactDatasetSource(str(Workspace.current().stores / record.store))
            dataset = MetaDataset(source, name=record.name, digest=record.store[:36])  # type: ignore[abstract]
            self._client.log_inputs(run_id, [DatasetInput(dataset._to_mlflow_entity())])
        return run

    def _experiment(self) -> str:
        name = self._folder.record.name
        experiment = self._client.get_experiment_by_name(name)
        return experiment.experiment_id if experiment else create_experiment(self._client, name)

    def _deliver_often(self) -> None:
        self._deliver()
        while not self._closing.wait(DELIVERY_INTERVAL):
            self._deliver()

    def _deliver(self) -> str | None:
        """Send what is new; returns the problem if MLflow does not answer (the next call tries again)."""
        try:
            run_id = self.connect()
            for feed in self._feeds:
                while rows := feed.read():
                    self._send(run_id, feed, rows)
            self._deliver_files(run_id)
        except AWAY as error:
            return _sentence(error)
        return None

    def _send(self, run_id: str, feed: Feed, rows: list[dict[str, float]]) -> None:
        """MLflow keeps one of several equal metrics, so what is sent again after a lost answer carries the same date."""
        if rows[-1]["step"] > (self._times[-1][0] if self._times else -1):  # written before the rows, perhaps read before too
            self._times = [(int(row["step"]), int(row["time"])) for row in self._folder.timing.rows() if "time" in row]
        new = [row for row in rows if row["step"] > feed.delivered]
        rows_at_once = max(1, LARGEST_BATCH // max((len(row) for row in new), default=1))
        for start in range(0, len(new), rows_at_once):
            part = new[start : start + rows_at_once]
            metrics = [
                Metric(key, value, self._date(int(row["step"])), int(row["step"]))
                for row in part
                for key, value in row.items()
                if key not in ("step", "time")
            ]
            self._client.log_batch(run_id, metrics=metrics)
            feed.delivered = int(part[-1]["step"])
        feed.advance()

    def _date(self, step: int) -> int:
        """When a step was reported, in milliseconds since 1970."""
        number = bisect.bisect_left(self._times, (step, 0))
        return self._times[number][1] if step and number < len(self._times) else int(self._folder.started * 1000)

    def _deliver_files(self, run_id: str) -> None:
        """Samples and lens of evaluated steps, and what else is new or has changed since it was sent."""
        steps = [int(row["step"]) for row in self._folder.evaluations.rows()]
        new = [step for step in steps if step not in self._samples_sent]
        for step in new:
            self._client.log_artifact(run_id, str(self._folder.sample_files(step)[1]), "samples")
            if (report := self._folder.report_files(step)[0]).is_file():
                self._client.log_artifact(run_id, str(report), "evaluations")
            if (lens := self._folder.lens_folder(step)).is_dir():
                self._client.log_artifacts(run_id, str(lens), f"lens/{lens.name}")
        if new:
            self._log_samples_table(run_id, steps)
            self._samples_sent.update(new)
        for file, place in self._folder.pages():
            if (changed := file.stat().st_mtime_ns) != self._pages_sent.get(file):
                self._client.log_artifact(run_id, str(file), place)
                self._pages_sent[file] = changed

    def _log_samples_table(self, run_id: str, steps: list[int]) -> None:
        """One table of all samples, in the form that MLflow's table view reads."""
        samples = [sample for step in steps for sample in self._folder.samples_of(step)]
        columns = ["step", "prompt", "completion", "tokens", "ended"]
        table = {"columns": columns, "data": [[sample[column] for column in columns] for sample in samples]}
        self._client.log_dict(run_id, table, "samples.json")
        self._client.set_tag(run_id, "mlflow.loggedArtifacts", '[{"path": "samples.json", "type": "table"}]')


class Feed:
    """What of one log was read and delivered."""

    def __init__(self, log: MetricsLog, key: str) -> None:
        self.key = key
        self.delivered = -1
        self._log = log
        self._position = self._behind = 0
        self._again = False

    def begin_again(self) -> None:
        """The log was cut back: read it from its beginning. May be called while another thread reads."""
        self._again = True

    def read(self) -> list[dict[str, float]]:
        """The next rows; the same ones again until `advance` is called."""
        if self._again:
            self._again, self._position = False, 0
        rows, self._behind = self._log.rows_after(self._position, LARGEST_READ)
        return rows

    def advance(self) -> None:
        """The rows that were read last are delivered."""
        self._position = self._behind


def _logs(folder: RunFolder) -> dict[str, MetricsLog]:
    """A log and one of its metrics, by which MLflow is asked how far it has come. The timing comes first: it has the dates."""
    system = {"system/process_memory_megabytes": folder.system}
    return {"tokens_per_second": folder.timing, "loss": folder.metrics, "val_loss": folder.evaluations, **system}


def is_our_note(note: str | None) -> bool:
    """Whether no person has written the description."""
    return note is None or note.startswith(OUR_NOTE)


def _sentence(error: Exception) -> str:
    return shown((str(error).splitlines() or [type(error).__name__])[0])[:120]


def create_experiment(client: MlflowClient, name: str) -> str:
    """A new experiment; its files go where the workspace says, or, with a server of MLflow's, where that says."""
    workspace = Workspace.current()
    database = mlflow.get_tracking_uri() == workspace.mlflow_database or mlflow_database()
    location = artifact_location(workspace, name) if database else None
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
