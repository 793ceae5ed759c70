"""A run's folder: the truth about the run, from which the dashboards, the runs table and a resumed run are fed.

run.json            what the run is: id, config, store, MLflow run id, and the key by which that is found again
metrics.jsonl       a row a step: loss, learning rate, gradient norm
timing.jsonl        tokens per second
system.jsonl        processor, memory, disk, network and GPU, under MLflow's names
evaluations.jsonl   a row of figures an evaluated step
evaluations/        the whole report of an evaluated step as JSON, and the loss of each document as Parquet
lens/               what each layer would say at evaluated steps: values, pages, pictures
report.html         all of this on one page
samples/            generated text of evaluated steps, JSON for programs and text for people
checkpoints/        step-N folders
processes/          of a run by several: the vocabulary that the others read, and their logs
compiled/           what torch.compile made, so that a resumed run computes with the same kernels
result.json         the finished run's summary; its presence means finished
tracking.json       the status that MLflow was told last; RUNNING until everything is delivered
failure.json        the sentence that ended the last attempt
lock                held while a process works on the run
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from configs.errors import UserError
from gpt2core.machine.lock import is_held, locked
from gpt2core.machine.sealed_json import DamagedFileError, read_sealed, write_sealed
from tasks.runs.metrics_log import MetricsLog
from tasks.runs.run_record import RunRecord

FileName = Literal["run", "result", "failure", "tracking"]
RunState = Literal["running", "finished", "failed", "stopped"]


@dataclass(frozen=True)
class RunFolder:
    """Paths and small files of one run."""

    path: Path

    @property
    def id(self) -> str:
        """The run's id: its name and a hash of everything that determines its weights."""
        return self.path.name

    @property
    def checkpoints(self) -> Path:
        """Folder of the step-N checkpoints."""
        return self.path / "checkpoints"

    def checkpoint_path(self, step: int) -> Path:
        """Where the checkpoint of a step lies, if there is one."""
        return self.checkpoints / f"step-{step:08d}"

    @property
    def samples(self) -> Path:
        """Folder of generated samples by step."""
        return self.path / "samples"

    @property
    def reports(self) -> Path:
        """Folder of evaluation reports by step."""
        return self.path / "evaluations"

    @property
    def processes(self) -> Path:
        """Folder of what the run's other processes read and write."""
        return self.path / "processes"

    @property
    def metrics(self) -> MetricsLog:
        """Loss, learning rate and gradient norm of every step."""
        return MetricsLog(self.path / "metrics.jsonl")

    @property
    def timing(self) -> MetricsLog:
        """Throughput; apart from the metrics, because it differs from one machine and moment to the next."""
        return MetricsLog(self.path / "timing.jsonl")

    @property
    def system(self) -> MetricsLog:
        """What the machine did meanwhile."""
        return MetricsLog(self.path / "system.jsonl")

    @property
    def evaluations(self) -> MetricsLog:
        """Validation figures of evaluated steps."""
        return MetricsLog(self.path / "evaluations.jsonl")

    def logs(self) -> dict[str, MetricsLog]:
        """The logs that are the same however often the run was interrupted, by file name."""
        return {log.path.name: log for log in (self.metrics, self.evaluations)}

    def sample_files(self, step: int) -> tuple[Path, Path]:
        """The samples of an evaluated step: JSON for programs and text for people."""
        name = f"step-{step:08d}"
        return self.samples / f"{name}.json", self.samples / f"{name}.txt"

    def report_files(self, step: int) -> tuple[Path, Path]:
        """The evaluation of a step: the whole report as JSON, the loss of each document as Parquet."""
        name = f"step-{step:08d}"
        return self.reports / f"{name}.json", self.reports / f"{name}.parquet"

    @property
    def lens(self) -> Path:
        """Folder of the lens readings by step."""
        return self.path / "lens"

    def lens_folder(self, step: int) -> Path:
        """The lens readings of an evaluated step."""
        return self.lens / f"step-{step:08d}"

    @property
    def report_page(self) -> Path:
        """The page about the run."""
        return self.path / "report.html"

    def pages(self) -> list[tuple[Path, str | None]]:
        """The report and the lens across training, as far as they are there, each with its folder in MLflow."""
        across = [(file, "lens") for file in sorted(self.lens.glob("across-*")) if file.suffix in (".html", ".png")]
        return [(file, place) for file, place in [(self.report_page, None), *across] if file.is_file()]

    @property
    def started(self) -> float:
        """When the run began, in seconds since 1970; 0 where that is not known."""
        record = self.read_record()
        return record.started.timestamp() if record else 0.0

    @property
    def record(self) -> RunRecord:
        """What the run is; raises UserError where run.json is missing or damaged."""
        if record := self.read_record():
            return record
        raise UserError(f"{self.path / 'run.json'} is missing or damaged: run the same command again, which makes it again.")

    def read_record(self) -> RunRecord | None:
        """What the run is; None where run.json is missing, damaged or of a version that is not known here."""
        with suppress(ValidationError):
            return RunRecord.model_validate(self.read("run"))
        return None

    def write_record(self, record: RunRecord) -> None:
        """Replace run.json."""
        self.write("run", record.as_json())

    def samples_of(self, step: int) -> list[dict[str, Any]]:
        """What was generated at an evaluated step; empty if it is not there or damaged."""
        try:
            return list(json.loads(self.sample_files(step)[0].read_text(encoding="utf-8")))
        except (FileNotFoundError, ValueError, TypeError):
            return []

    def read(self, name: FileName) -> dict[str, Any]:
        """One of the JSON files; empty if it is not there, or if a bit of it differs from what was written."""
        try:
            return read_sealed(self.path / f"{name}.json")
        except (FileNotFoundError, DamagedFileError):
            return {}

    def write(self, name: FileName, value: dict[str, Any]) -> None:
        """Replace one of the JSON files."""
        write_sealed(self.path / f"{name}.json", value)

    def is_damaged(self, name: FileName) -> bool:
        """Whether one of the JSON files is there and not what was written."""
        return (self.path / f"{name}.json").is_file() and not self.read(name)

    def state(self) -> RunState:
        """Running while some process holds the lock; otherwise what the last attempt left behind."""
        return "running" if is_held(self._lock) else self.outcome()

    def outcome(self) -> RunState:
        """What the last attempt left behind."""
        if (self.path / "result.json").is_file():
            return "finished"
        return "failed" if (self.path / "failure.json").is_file() else "stopped"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the run for this process; raises UserError that says who holds it. A kill always frees it."""
        with ExitStack() as held:
            try:
                descriptor = held.enter_context(locked(self._lock, wait=False))
            except BlockingIOError as error:
                holder = self._lock.read_text(encoding="utf-8")
                raise UserError(f"Run {self.id} is being trained by {holder}: wait for it or stop it first.") from error
            os.truncate(descriptor, 0)
            os.write(descriptor, f"process {os.getpid()} since {datetime.now():%Y-%m-%d %H:%M:%S}".encode())
            yield

    def holder(self) -> int | None:
        """The process that works on the run."""
        words = self._lock.read_text(encoding="utf-8").split() if is_held(self._lock) else []
        return int(words[1]) if len(words) > 1 else None

    @property
    def _lock(self) -> Path:
        return self.path / "lock"
