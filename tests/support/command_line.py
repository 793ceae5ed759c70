"""`gpt2flow` in the tests' own process: what it prints and its exit code, without the second that a process takes to start."""

import sys
import warnings
from dataclasses import dataclass

import pytest

from flows.cli.main import main


@dataclass(frozen=True)
class Done:
    """How a command has ended."""

    code: int
    out: str
    err: str


def gpt2flow(capsys: pytest.CaptureFixture[str], *arguments: str) -> Done:
    """Run the command to its end, as the installed program does."""
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings(action="ignore"):  # cyclopts expects none of a test
        patch.setattr(sys, "argv", ["gpt2flow", *arguments])
        try:
            main()
            code = 0
        except SystemExit as left:
            code = int(left.code or 0)
    shown = capsys.readouterr()
    return Done(code, shown.out, shown.err)
