"""The front door: runs the verb that was asked for and turns what went wrong into sentences and exit codes."""

from __future__ import annotations

import sys

from cyclopts import CycloptsError, UnusedCliTokensError, ValidationError
from pydantic import ValidationError as PydanticError

from configs.errors import UserError
from configs.loading import describe_errors
from flows.cli import (  # noqa: F401  # registers the verbs
    conversion,
    corpus,
    evaluation,
    generation,
    maintenance,
    models,
    monitoring,
    promotion,
    runs,
    schedules,
    servers,
    sweeps,
)
from flows.cli.app import app


def main() -> None:
    """Entry point: mistakes become one sentence and exit code 2, signals become 130 and 143."""
    from tasks.terminal.stop_signals import advised, received, stopping_on_signals
    from tasks.workspace.elsewhere import require_sound_settings
    from tasks.workspace.folders import Workspace

    try:
        with stopping_on_signals():
            require_sound_settings(Workspace.current())
            app(exit_on_error=False, print_error=False)
    except (UserError, CycloptsError) as error:
        print(f"gpt2flow: {sentence(error)}", file=sys.stderr)
        sys.exit(2)
    except BaseException:
        if (number := received()) is None:
            raise
        if sys.argv[1:2] in (["run"], ["resume"], ["sweep"]) and not advised():
            print("gpt2flow: stopped before training; the same command goes on from there", file=sys.stderr)
        sys.exit(128 + number)


def sentence(error: UserError | CycloptsError) -> str:
    """What went wrong, and how it is done."""
    if isinstance(error, ValidationError) and isinstance(error.__cause__, PydanticError):
        return "\n".join(describe_errors(error.__cause__, lambda keys: f"--{'.'.join(keys)}"))
    if isinstance(error, UnusedCliTokensError):
        return f"{' '.join(error.unused_tokens or [])} belongs to no option: write a switch as --option=false, quote texts."
    return str(error)
