"""Looks at a run's figures while it goes on, and tells what the config's alerts ask for."""

from __future__ import annotations

import shutil
import threading
import time
from types import TracebackType

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from configs.errors import UserError
from configs.schema import RunConfig
from gpt2core.training.callback import Callback, StepMetrics, StepsDone
from gpt2core.training.ranking import cost
from tasks.alerts import rules
from tasks.alerts.alert import Alert, Kind
from tasks.alerts.announcer import Announcer
from tasks.registry.lookup import CHAMPION, Version, alias_version
from tasks.runs.run_folder import RunFolder
from tasks.workspace.folders import Workspace

DISK_INTERVAL = 10.0  # seconds
PATIENCE = 60.0  # seconds that the run's end waits for the registry


class RunWatch(Callback):
    """Use as a context manager around the work. It reads what the run has written, and changes nothing."""

    def __init__(self, folder: RunFolder, config: RunConfig) -> None:
        self._folder = folder
        self._config = config
        self._settings = config.alerts
        self._announcer = Announcer(config.alerts, config.name)
        self._position = self._last = 0
        self._speeds: list[float] = []
        self._disk_seen = 0.0
        self._lasting: set[Kind] = set()
        self._comparison = threading.Thread()

    def __enter__(self) -> RunWatch:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        if self._comparison.ident:
            self._comparison.join(PATIENCE)
        self._announcer.__exit__(kind, error, traceback)

    def on_steps_done(self, done: StepsDone) -> None:
        """Judge the new losses, the speed and the disk."""
        self._tell("loss spike", rules.spike(self._rows_of(done), self._settings.loss_spike))
        self._speeds = [*self._speeds, done.tokens_per_second][-rules.USUAL - rules.RECENT :]
        self._tell_once("slow", rules.slower(self._speeds, self._settings.throughput_below))
        if time.monotonic() - self._disk_seen > DISK_INTERVAL:
            self._disk_seen, root = time.monotonic(), Workspace.current().root
            self._tell_once("disk low", rules.disk_low(shutil.disk_usage(root).free, self._settings.disk_below, str(root)))

    def on_not_finite(self, update: StepMetrics) -> None:
        """Tell it before the run is stopped or rewound."""
        if self._settings.not_finite:
            self._tell("not finite", rules.not_finite(update))

    def evaluated(self, row: dict[str, float]) -> None:
        """Judge a new row of evaluations.jsonl."""
        self._tell("memorised", rules.memorised(row, self._settings.copied_tokens, self._settings.canary_exposure))
        times = self._settings.worse_than_champion
        if times and self._config.registry.enabled and len(self._folder.evaluations.rows()) >= times:
            self._comparison = threading.Thread(target=self._compare, name="champion-comparison", daemon=True)
            self._comparison.start()  # the registry may be away, and training does not wait for it

    def _rows_of(self, done: StepsDone) -> list[dict[str, float]]:
        """What was written of these updates; where they do not follow the last ones, the log was perhaps cut back."""
        first = done.updates[0].step
        start = self._position if first == self._last + 1 else 0
        rows, self._position = self._folder.metrics.rows_after(start)
        self._last = done.updates[-1].step
        return [row for row in rows if row["step"] >= first]

    def _compare(self) -> None:
        champion = champion_cost(self._folder, self._config)
        if champion is not None:
            costs = [cost(row, self._config.evaluate.best_by) for row in self._folder.evaluations.rows() if row["step"]]
            self._tell_once(
                "worse than champion", rules.worse_than_champion(costs, champion, self._settings.worse_than_champion)
            )

    def _tell_once(self, kind: Kind, text: str | None) -> None:
        """Of a state that lasts its beginning alone."""
        if text and kind not in self._lasting:
            self._tell(kind, text)
        (self._lasting.add if text else self._lasting.discard)(kind)

    def _tell(self, kind: Kind, text: str | None) -> None:
        if text:
            self._announcer.tell(Alert(kind, self._config.name, f"Run {self._folder.id}: {text}"))


def champion_cost(folder: RunFolder, config: RunConfig) -> float | None:
    """What the champion costs by evaluate.best_by on the text that this run is evaluated on; None where that is not known.

    It is, where the run has begun from the champion, or the champion's own run was evaluated in the same way on the same text.
    """
    try:
        champion = alias_version(MlflowClient(), config.registry.model or config.name, CHAMPION)
    except (UserError, MlflowException, OSError):
        return None
    if champion is None:
        return None
    if config.model.base == champion.uri:
        return _cost_at(folder, 0, config)
    return _cost_in_its_own_run(champion, folder, config)


def _cost_in_its_own_run(champion: Version, folder: RunFolder, config: RunConfig) -> float | None:
    theirs = RunFolder(Workspace.current().runs / champion.tags.get("run", "unknown"))
    record, own = theirs.read_record(), folder.read_record()
    if record is None or own is None or record.store != own.store:
        return None
    evaluate = record.settings.get("evaluate", {})
    if any(evaluate.get(name) != getattr(config.evaluate, name) for name in ("max_windows", "stride")):
        return None
    return _cost_at(theirs, int(champion.tags.get("checkpoint", "step-0").removeprefix("step-")), config)


def _cost_at(folder: RunFolder, step: int, config: RunConfig) -> float | None:
    found = [row for row in folder.evaluations.rows() if row["step"] == step]
    return cost(found[0], config.evaluate.best_by) if found else None
