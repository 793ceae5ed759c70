"""What Prefect, MLflow and the metrics file cost together: updates with all of them against bare updates, interleaved.

python -m benchmarks.overhead [SIZE] [ROUNDS] [STEPS]        # 124M, 3, 10
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from benchmarks.checkpoint import trainer_of
from configs.schema import RunConfig
from gpt2core.training.trainer import Trainer

if TYPE_CHECKING:
    from tasks.runs.run_folder import RunFolder


def main(size: str, rounds: int, steps: int) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        os.environ["GPT2FLOW_HOME"] = scratch  # before anything of `tasks` is imported, which points Prefect and MLflow at it
        from flows.cli.prefect_start import prefect_starting
        from tasks.workspace.folders import Workspace

        with prefect_starting(Workspace.current().create()):
            trainer = trainer_of(size)
            trainer.run_until(1)
        bare, watched = _measure(trainer, _new_folder(), rounds, steps)
    ratios = [after / before for before, after in zip(bare, watched, strict=True)]
    print(f"GPT-2 {size}, {rounds} rounds of {steps} updates, medians:")
    print(f"  bare                               {statistics.median(bare) / steps:7.3f} s an update")
    print(f"  with Prefect, MLflow and metrics   {statistics.median(watched) / steps:7.3f} s an update")
    print(f"  overhead                           {statistics.median(ratios) - 1:7.1%}   (rounds: {_listed(ratios)})")


def _measure(trainer: Trainer, folder: RunFolder, rounds: int, steps: int) -> tuple[list[float], list[float]]:
    """Seconds of each round, bare and as the pipeline does it: a task, its rows in the folder, their delivery beside."""
    from prefect import flow, task

    from tasks.finetuning.step_recorder import StepRecorder
    from tasks.terminal.console import say
    from tasks.tracking.mlflow_mirror import Tracking

    recorder = StepRecorder(folder)

    @task(persist_result=False)
    def train_until(step: int) -> None:
        trainer.run_until(step)
        say(f"step {step}", "done")

    @flow(persist_result=False)
    def measured() -> tuple[list[float], list[float]]:
        bare, watched = [], []
        with Tracking(folder):
            for _ in range(rounds):
                bare.append(_timed(lambda: trainer.run_until(trainer.step + steps)))
                trainer.callbacks.append(recorder)
                watched.append(_timed(lambda: train_until(trainer.step + steps)))
                trainer.callbacks.remove(recorder)
        return bare, watched

    return measured()


def _new_folder() -> RunFolder:
    """A run's folder with what the delivery to MLflow reads."""
    from tasks.runs.run_folder import RunFolder
    from tasks.runs.run_record import RunRecord
    from tasks.workspace.folders import Workspace

    folder = RunFolder(Workspace.current().runs / "overhead-00000000")
    for part in (folder.samples, folder.reports, folder.lens):
        part.mkdir(parents=True)
    sizes = {"n_ctx": 8, "n_embd": 8, "n_head": 1, "n_layer": 1}
    config = RunConfig.model_validate({"name": "overhead", "model": sizes}).model_dump()
    folder.write_record(RunRecord(id=folder.id, store="none", settings=config))
    return folder


def _listed(ratios: list[float]) -> str:
    return ", ".join(f"{ratio - 1:.1%}" for ratio in ratios)


def _timed(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


if __name__ == "__main__":
    size, rounds, steps = (*sys.argv[1:], *("124M", "3", "10")[len(sys.argv) - 1 :])
    main(size, int(rounds), int(steps))
