"""Evaluating a checkpoint in a process of its own, while training goes on.

`python -m tasks.outside_evaluation RUN_FOLDER STEP` is that process: it reads the checkpoint, writes report and samples as an
evaluation inside of training does, and leaves the row of figures in a file. It ends when its parent does.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

from configs.errors import UserError
from configs.schema import RunConfig
from gpt2core.checkpoint import Checkpoint, find_damage
from gpt2core.devices import choose_device, choose_threads
from gpt2core.document_stream import split_of_store
from gpt2core.durable import write_json
from gpt2core.precision import choose_dtype
from gpt2core.token_store import open_store
from gpt2core.tokenizer import load_tokenizer
from gpt2core.weights import load_model
from tasks.console import warn
from tasks.copies import CopySearch
from tasks.evaluate_step import Subject, evaluate_step
from tasks.run_folder import RunFolder
from tasks.workspace import Workspace

ATTEMPTS = 3


class OutsideEvaluation:
    """One evaluation under way; a process that dies is started again, three times in all."""

    def __init__(self, folder: RunFolder, step: int) -> None:
        self.step = step
        self._folder = folder
        self._log = folder.reports / f"step-{step:08d}.log"
        self._process = self._start()

    def join(self) -> dict[str, float]:
        """Wait for the row of figures; raises UserError where no attempt came to its end."""
        result = _row_file(self._folder, self.step)
        for attempt in range(1, ATTEMPTS + 1):
            code = self._process.wait()
            if code == 0 and result.is_file():
                row: dict[str, float] = json.loads(result.read_text(encoding="utf-8"))
                result.unlink()
                self._log.unlink(missing_ok=True)
                return row
            if attempt < ATTEMPTS:
                warn("evaluation", f"the process that evaluates step {self.step} ended with {code}: it is started again")
                self._process = self._start()
        last = self._log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-1:]
        raise UserError(f"Step {self.step} could not be evaluated in another process ({''.join(last)}): see {self._log}.")

    def stop(self) -> None:
        """End the process; the next start of the run evaluates the step again."""
        self._process.kill()
        self._process.wait()

    def _start(self) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "tasks.outside_evaluation", str(self._folder.path), str(self.step)]
        with self._log.open("wb") as log:
            # A session of its own, so that Ctrl-C reaches the run alone; the pipe tells it when the run is gone.
            return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=log, stderr=log, start_new_session=True)


def evaluate_checkpoint(folder: RunFolder, step: int) -> dict[str, float]:
    """Evaluate the run's checkpoint of this step as training itself would, on the same device in the same numbers."""
    path = folder.checkpoint_path(step)
    if damage := find_damage(Checkpoint(path, step), folder.id):
        raise UserError(f"Checkpoint {path} cannot be evaluated: {damage}.")
    known = folder.read("run")
    config = RunConfig.model_validate(known["config"])
    device = choose_device(config.train.device)
    model, tokenizer = load_model(path, device=device), load_tokenizer(path)
    choose_threads(model.config.n_embd)
    dtype = choose_dtype(config.train.dtype, device, model.config.n_embd)
    store = open_store(Workspace.current().stores / known["store"], verify=False)
    copies = CopySearch(store, tokenizer) if config.evaluate.copied_tokens else None
    computing = load_model(path, device=device, dtype=dtype)
    return evaluate_step(Subject(folder, config, step, model, computing, tokenizer, split_of_store(store, tokenizer), copies))


def _row_file(folder: RunFolder, step: int) -> Path:
    return folder.reports / f"step-{step:08d}.row"


def _end_with_parent() -> None:
    os.read(sys.stdin.fileno(), 1)  # without Python's buffer, whose lock would be held when the process ends
    os._exit(1)


def _main() -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    folder, step = RunFolder(Path(sys.argv[1])), int(sys.argv[2])
    try:
        write_json(_row_file(folder, step), evaluate_checkpoint(folder, step))
    except UserError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    _main()
