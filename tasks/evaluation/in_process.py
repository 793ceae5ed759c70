"""Evaluating a checkpoint in a process of its own on this machine, while training goes on.

`python -m tasks.evaluation.in_process RUN_FOLDER STEP` is that process. It ends when its parent does.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

from configs.errors import UserError
from tasks.evaluation.checkpoint import EvaluationRow, leave_row, take_row
from tasks.runs.run_folder import RunFolder
from tasks.terminal.console import warn

ATTEMPTS = 3


class ProcessEvaluation:
    """One evaluation under way; a process that dies is started again, three times in all."""

    def __init__(self, folder: RunFolder, step: int) -> None:
        self.step = step
        self._folder = folder
        self._log = folder.reports / f"step-{step:08d}.log"
        self._process = self._start()

    def join(self) -> EvaluationRow:
        """Wait for the row of figures; raises UserError where no attempt came to its end."""
        for attempt in range(1, ATTEMPTS + 1):
            code = self._process.wait()
            if code == 0 and (row := take_row(self._folder, self.step)) is not None:
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
        command = [sys.executable, "-m", "tasks.evaluation.in_process", str(self._folder.path), str(self.step)]
        with self._log.open("wb") as log:
            # A session of its own, so that Ctrl-C reaches the run alone; the pipe tells it when the run is gone.
            return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=log, stderr=log, start_new_session=True)


def _end_with_parent() -> None:
    os.read(sys.stdin.fileno(), 1)  # without Python's buffer, whose lock would be held when the process ends
    os._exit(1)


def _main() -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        leave_row(RunFolder(Path(sys.argv[1])), int(sys.argv[2]))
    except UserError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    _main()
