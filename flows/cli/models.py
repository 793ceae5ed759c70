"""Verbs that ask a trained model. Heavy libraries are imported inside them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from configs.errors import UserError
from configs.generation import CompletionSettings, LensSettings
from flows.cli.app import app
from gpt2core.machine.durable import require_folder, require_place


@app.command
def sample(
    *prompts: str,
    model: str | None = None,
    file: Annotated[Path | None, Parameter(allow_leading_hyphen=True)] = None,
    interactive: bool = False,
    follow: str | None = None,
    format: Literal["text", "jsonl", "table"] = "text",
    output: Path | None = None,
    settings: Annotated[CompletionSettings, Parameter(name="*")] = CompletionSettings(),
) -> None:
    """Complete prompts with a trained model.

    Example: `gpt2flow sample --model models:/demo@candidate "The function returns " --temperature 0.7`

    Parameters
    ----------
    prompts
        Texts to complete; without any the model starts from nothing.
    model
        A run's id or name, a folder of weights, or models:/NAME@ALIAS; the latest run unless given.
    file
        A text file with a prompt a line; - is the standard input.
    interactive
        Ask for prompts until Ctrl-D.
    follow
        A run, of which each new checkpoint completes the prompts until the run ends.
    format
        Text, JSON lines (with tokens and how each text ended) or a table.
    output
        File to write instead of the terminal, when all is there.
    """
    _require_sense(model, interactive, follow, output)
    print("gpt2flow: loading PyTorch and the model ...", file=sys.stderr, flush=True)
    from flows.pages import samples
    from tasks.models import sample as task

    texts = [] if interactive else task.read_prompts(prompts, file)
    if follow:
        for step, found in task.follow_run(follow, texts, settings):
            print(samples.render(found, format, settings.include_prefix, step), end="", flush=True)
        return
    writer = task.Writer.of(model, settings)
    if interactive:
        samples.converse(writer.stream)
        return
    if note := writer.note(texts):
        print(f"gpt2flow: {note}", file=sys.stderr, flush=True)
    if format == "text" and output is None and len(texts) == settings.samples == 1:
        samples.print_pieces(writer.stream(texts[0]))
        return
    text = samples.render(list(writer.complete(texts)), format, settings.include_prefix)
    if output:
        task.save(text, output)
        print(f"Written: {output}")
    else:
        print(text, end="")


@app.command
def export(folder: Path, /, *, model: str | None = None, merge: bool = True) -> None:
    """Write a model as a folder that Hugging Face transformers, and gpt2flow as model.base, load as it is.

    Example: `gpt2flow export my-model --model models:/demo@candidate`

    Parameters
    ----------
    folder
        The folder to make.
    model
        A run's id or name, a folder of weights (OpenAI's too), or models:/NAME@ALIAS; the latest run unless given.
    merge
        Merge LoRA adapters into the weights; --no-merge leaves them beside their base model, in the files that peft reads.
    """
    require_folder(folder)
    print("gpt2flow: loading PyTorch and the model ...", file=sys.stderr, flush=True)
    from tasks.models.export import export as write

    write(model, folder, merge=merge)
    print(f"Written: {folder}")


def _require_sense(model: str | None, interactive: bool, follow: str | None, output: Path | None) -> None:
    """Raise UserError where options of `sample` exclude one another, or the output has no place."""
    if output and (follow or interactive):
        raise UserError("--output waits for the last sample, which --follow and --interactive do not have: redirect with >.")
    if follow and model:
        raise UserError(f"--follow {follow} takes that run's checkpoints, so --model {model} has no place: leave one out.")
    if output:
        require_place(output)


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
    require_folder(output)
    print("gpt2flow: loading PyTorch and the model ...", file=sys.stderr, flush=True)
    from flows.pages.lens import print_across, print_reading
    from tasks.models.lens import look, look_across
    from tasks.reports.lens import write_across, write_reading

    if across:
        history = look_across(model, prompt, settings, watch or [], ecco_compat)
        print_across(history)
        written = write_across(history, output, f"The lens across training: {model or 'latest run'}")
    else:
        reading = look(model, prompt, settings, watch or [], position, ecco_compat)
        print_reading(reading)
        written = write_reading(reading, output, f"The lens: {model or 'latest run'}")
    print("Written:", ", ".join(map(str, written)))
