"""Verbs that ask a trained model. Heavy libraries are imported inside them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from configs.schema import SampleSettings
from flows.app import app

LENS_DEFAULTS = SampleSettings(max_new_tokens=12, temperature=0.0)


@app.command
def sample(
    *prompts: str, model: str | None = None, settings: Annotated[SampleSettings, Parameter(name="*")] = SampleSettings()
) -> None:
    """Complete prompts with a trained model.

    Example: `gpt2flow sample --model models:/demo@candidate "The function returns " --temperature 0.7`

    Parameters
    ----------
    prompts
        Texts to complete; without one the model starts from nothing.
    model
        A run's id or name, a folder of weights, or models:/NAME@ALIAS; the latest run unless given.
    """
    print("gpt2flow: loading PyTorch and the model ...", file=sys.stderr, flush=True)
    from tasks.sample import complete

    for text in complete(model, list(prompts) or [""], settings):
        print(text, flush=True)


@app.command
def lens(
    prompt: str,
    *,
    model: str | None = None,
    output: Path = Path("lens"),
    watch: list[str] | None = None,
    ecco_compat: bool = False,
    settings: Annotated[SampleSettings, Parameter(name="*")] = LENS_DEFAULTS,
) -> None:
    """Show what every layer of a model would say after a prompt, as a table, a page and pictures.

    Example: `gpt2flow lens "The keys to the cabinet" --model demo --watch " is" --watch " are"`

    Parameters
    ----------
    prompt
        Text to look at.
    model
        A run's id or name, a folder of weights, or models:/NAME@ALIAS; the latest run unless given.
    output
        Folder for lens.html, lens.json and the PNG pictures.
    watch
        Single tokens whose ranks after the prompt are shown.
    ecco_compat
        Leave the final norm out below the last layer, as Ecco does.
    """
    print("gpt2flow: loading PyTorch and the model ...", file=sys.stderr, flush=True)
    from flows.lens_table import print_reading
    from tasks.lens import look, write_reading

    reading = look(model, prompt, settings, watch or [], ecco_compat)
    print_reading(reading)
    print("Written:", ", ".join(str(path) for path in write_reading(reading, output, f"The lens: {model or 'latest run'}")))
