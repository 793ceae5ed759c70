"""A run of a sweep in a process of its own: `python -m flows.cli.member SWEEP RESULT`.

Its config comes as a line of JSON on the standard input. When that ends, whoever wanted the run is gone, and it stops as by
SIGTERM, with its checkpoint.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from pathlib import Path

from pydantic import TypeAdapter

from configs.errors import UserError
from configs.schema import RunConfig
from flows.cli.runs import fine_tune
from tasks.terminal.stop_signals import received, stopping_on_signals


def _stop_when_alone() -> None:
    os.read(sys.stdin.fileno(), 1)
    os.kill(os.getpid(), signal.SIGTERM)


def _main() -> None:
    config = RunConfig.model_validate_json(sys.stdin.buffer.readline())
    threading.Thread(target=_stop_when_alone, daemon=True).start()
    from prefect import tags

    from tasks.finetuning.result import RunResult

    try:
        with stopping_on_signals(), tags(sys.argv[1]):
            result = fine_tune(config)
    except UserError as error:
        sys.exit(str(error))
    except BaseException:
        if (number := received()) is None:
            raise
        sys.exit(128 + number)
    Path(sys.argv[2]).write_bytes(TypeAdapter(RunResult).dump_json(result))


if __name__ == "__main__":
    _main()
