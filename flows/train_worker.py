"""What torchrun starts on every machine: the first process is `gpt2flow run`, the others make their shares of its updates.

`torchrun --nnodes 4 --nproc-per-node 8 --rdzv-backend c10d --rdzv-endpoint HOST:29400 -m flows.train_worker CONFIG [--SETTING
VALUE ...]`, the same on every machine. All must see the same workspace.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any, NoReturn

from cyclopts import CycloptsError

from configs.errors import UserError
from configs.loading import load_config
from configs.schema import RunConfig, RunSettings
from flows.cli.app import app
from flows.cli.main import main as command_line
from flows.cli.main import sentence
from gpt2core.distributed.launch import Launch
from gpt2core.distributed.messages import Messages
from gpt2core.distributed.sameness import require_same, software
from tasks.finetuning.follow import Follower, telling_the_others
from tasks.processes.meeting import await_parting, meet, part


def main() -> None:
    """Entry point: the exit code of every process is that of the first one, unless it was this one that failed."""
    sys.argv[:1] = ["gpt2flow", "run"]
    try:
        sys.exit(_take_part())
    except (UserError, CycloptsError) as error:
        print(f"gpt2flow: {sentence(error)}", file=sys.stderr)
        sys.exit(2)


def _take_part() -> int:
    launch = Launch.of_environment()
    if launch is None:
        raise UserError("flows.train_worker is what torchrun starts: without it, gpt2flow run CONFIG does the same.")
    config = _asked()
    messages = meet(launch, config.train.process_timeout)
    facts = {**software(), **_by_name(config.model_dump(mode="json"))}
    return _lead(messages, facts) if launch.rank == 0 else _follow(messages, launch, facts)


def _lead(messages: Messages, facts: dict[str, str]) -> int:
    code = 1
    try:
        require_same(facts, messages.answers())
        command_line()
        code = 0
    except SystemExit as ended:
        code = int(ended.code or 0)
    except UserError:
        code = 2
        raise
    finally:
        part(messages, code)
    return code


def _follow(messages: Messages, launch: Launch, facts: dict[str, str]) -> NoReturn:
    with telling_the_others(messages):
        messages.answer(**facts)
        code = Follower(messages, launch.number, launch.here).follow()
    with Path(os.devnull).open("wb") as nowhere:  # all is said, and the back-end would write a page on how a connection ends
        os.dup2(nowhere.fileno(), sys.stderr.fileno())
    await_parting(messages)
    os._exit(code)  # at once: there is nothing to save, and the thread that shows the pulse is still at the store


def _asked() -> RunConfig:
    _, bound, _ = app.parse_args(sys.argv[1:], exit_on_error=False, print_error=False)
    settings = bound.arguments.get("settings", RunSettings())
    return load_config(bound.arguments["config"], settings.model_dump(exclude_unset=True))


def _by_name(settings: dict[str, Any], before: str = "") -> dict[str, str]:
    """Nested settings as train.steps: 300."""
    found: dict[str, str] = {}
    for name, value in settings.items():
        found |= _by_name(value, f"{before}{name}.") if isinstance(value, dict) else {f"{before}{name}": str(value)}
    return found


if __name__ == "__main__":
    main()
