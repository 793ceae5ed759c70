"""Verbs that ask a trained model. Heavy libraries are imported inside them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from configs.schema import LensSettings, SampleSettings
from flows.app import app


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
    position: int | None = None,
    across: bool = False,
    ecco_compat: bool = False,
    settings: Annotated[LensSettings, Parameter(name="*")] = LensSettings(),
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
    position
        First token that is looked at, where 0 is the prompt's first; the first new one unless given.
    across
        Read all checkpoints of the run that are still there, side by side, instead of one model.
    ecco_compat
        Leave the final norm out below the last layer, as Ecco does.
    """
    print("gpt2flow: loading PyTorch and the model ...", file=sys.stderr, flush=True)
    from flows.lens_table import print_across, print_reading
    from tasks.lens import look, look_across, write_across, write_reading

    if across:
        history = look_across(model, prompt, settings, watch or [], ecco_compat)
        print_across(history)
        written = write_across(history, output, f"The lens across training: {model or 'latest run'}")
    else:
        reading = look(model, prompt, settings, watch or [], position, ecco_compat)
        print_reading(reading)
        written = write_reading(reading, output, f"The lens: {model or 'latest run'}")
    print("Written:", ", ".join(map(str, written)))
