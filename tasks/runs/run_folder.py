"""A run's folder: the truth about the run, from which the dashboards, the runs table and a resumed run are fed.

run.json            what the run is: id, config, store, MLflow run id, and the key by which that is found again
metrics.jsonl       a row a step: loss, learning rate, gradient norm
timing.jsonl        tokens per second
evaluations.jsonl   a row of figures an evaluated step
evaluations/        the whole report of an evaluated step as JSON, and the loss of each document as Parquet
lens/               what each layer would say at evaluated steps: values, pages, pictures
report.html         all of this on one page
samples/            generated text of evaluated steps, JSON for programs and text for people
checkpoints/        step-N folders
compiled/           what torch.compile made, so that a resumed run computes with the same kernels
result.json         the finished run's summary; its presence means finished
tracking.json       the status that MLflow was told last; RUNNING until everything is delivered
failure.json        the sentence that ended the last attempt
lock                held while a process works on the run
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import IO, Any, Literal

import xxhash

from configs.errors import UserError
from configs.schema import RunConfig
from gpt2core.machine.durable import write_json
from tasks.runs.metrics_log import MetricsLog

FileName = Literal["run", "result", "failure", "tracking"]
RunState = Literal["running", "finished", "failed", "stopped"]
LOCK_ATTEMPTS = 10
HARMLESS = {
    "device",
    "checkpoint_every",
    "keep_checkpoints",
    "keep_best",
    "keep_every_hours",
    "keep_weights_history",
    "recompute_blocks",
    "restore_from",
    "save_beside",
    "memory_limit",
    "epochs",
    "tokens",
    "hours",
    "tokens_per_step",
}
"""Settings of `train` that cannot change the weights, or do so only through others (steps, batch_size, accumulate)."""
ASKED = {"epochs", "tokens", "hours", "tokens_per_step"}
"""Those of them that decide what others are settled to."""


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
    def metrics(self) -> MetricsLog:
        """Loss, learning rate and gradient norm of every step."""
        return MetricsLog(self.path / "metrics.jsonl")

    @property
    def timing(self) -> MetricsLog:
        """Throughput; apart from the metrics, because it differs from one machine and moment to the next."""
        return MetricsLog(self.path / "timing.jsonl")

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
        text = self.read("run").get("started")
        return datetime.fromisoformat(text).timestamp() if text else 0.0

    def samples_of(self, step: int) -> list[dict[str, Any]]:
        """What was generated at an evaluated step; empty if it is not there or damaged."""
        try:
            return list(json.loads(self.sample_files(step)[0].read_text(encoding="utf-8")))
        except (FileNotFoundError, ValueError, TypeError):
            return []

    def read(self, name: FileName) -> dict[str, Any]:
        """One of the JSON files; empty if it is not there, or if a bit of it differs from what was written."""
        try:
            value = dict(json.loads((self.path / f"{name}.json").read_text(encoding="utf-8")))
        except (FileNotFoundError, ValueError, TypeError):
            return {}
        return value if value.pop("checksum", None) in (None, checksum(value)) else {}

    def write(self, name: FileName, value: dict[str, Any]) -> None:
        """Replace one of the JSON files."""
        write_json(self.path / f"{name}.json", {**value, "checksum": checksum(value)})

    def is_damaged(self, name: FileName) -> bool:
        """Whether one of the JSON files is there and not what was written."""
        return (self.path / f"{name}.json").is_file() and not self.read(name)

    def state(self) -> RunState:
        """Running while some process holds the lock; otherwise what the last attempt left behind."""
        return "running" if self._is_locked() else self.outcome()

    def outcome(self) -> RunState:
        """What the last attempt left behind."""
        if (self.path / "result.json").is_file():
            return "finished"
        return "failed" if (self.path / "failure.json").is_file() else "stopped"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the run for this process; raises UserError that says who holds it. A kill always frees it."""
        with (self.path / "lock").open("a+", encoding="utf-8") as lock:
            if not _lock_patiently(lock):
                lock.seek(0)
                raise UserError(f"Run {self.id} is being trained by {lock.read()}: wait for it or stop it first.")
            lock.truncate(0)
            lock.write(f"process {os.getpid()} since {datetime.now():%Y-%m-%d %H:%M:%S}")
            lock.flush()
            yield

    def holder(self) -> int | None:
        """The process that works on the run."""
        words = (self.path / "lock").read_text(encoding="utf-8").split() if self._is_locked() else []
        return int(words[1]) if len(words) > 1 else None

    def _is_locked(self) -> bool:
        return is_held(self.path / "lock")


def is_held(lock: Path) -> bool:
    """Whether a process holds this lock file, here or on another machine that sees it."""
    try:
        with lock.open("r", encoding="utf-8") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


def checksum(value: dict[str, Any]) -> str:
    """Hash of a JSON object's content, whatever the order of its keys."""
    return xxhash.xxh3_64_hexdigest(json.dumps(value, sort_keys=True).encode())


def _lock_patiently(lock: IO[str]) -> bool:
    """Whether the lock was got; who only looks whether a run is locked holds it for a moment, so one attempt is not enough."""
    for _ in range(LOCK_ATTEMPTS):
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(0.05)
        else:
            return True
    return False


def run_id(config: RunConfig, store_hash: str, base_hash: str, origin_hash: str = "") -> str:
    """The id under which the same settings on the same text from the same base weights are found again.

    Settings that cannot change the weights (device, checkpoints, evaluation, registry, where the text lies) are left out.
    """
    train = config.train.model_dump(exclude=HARMLESS)
    model = config.model.model_dump(exclude={"base"})
    data = config.data.model_dump(include={"mask_documents"})  # the rest is in the store's hash
    ingredients = {"train": train, "model": model, "data": data, "store": store_hash, "base": base_hash, "origin": origin_hash}
    digest = hashlib.sha256(json.dumps(ingredients, sort_keys=True).encode()).hexdigest()
    return f"{config.name}-{digest[:8]}"


def asked_id(config: RunConfig, store_hash: str, base_hash: str) -> str:
    """As `run_id`, of a config in which not everything is settled yet: what was asked for, before it was worked out."""
    wishes = json.dumps(config.train.model_dump(include=ASKED), sort_keys=True)
    return run_id(config, store_hash, base_hash, hashlib.sha256(wishes.encode()).hexdigest())
