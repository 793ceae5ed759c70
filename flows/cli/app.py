"""The command line's one `App`, which the verbs of `flows.cli` register themselves with."""

from __future__ import annotations

from importlib.metadata import version
from typing import Annotated

from cyclopts import App, Parameter

from configs.schema import RunSettings

app = App(
    name="gpt2flow",
    help="Fine-tune GPT-2 on your own text as a pipeline: run, kill, resume, compare, register.",
    version=lambda: version("gpt2flow"),
    help_format="markdown",
    default_parameter=Parameter(name_transform=str, negative_iterable=""),
)
Overrides = Annotated[RunSettings, Parameter(name="*")]
"""Any setting of a config as an option: --train.steps 300."""
