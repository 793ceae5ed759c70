"""The lens on the models of runs, folders and the registry: pages, pictures and figures, at one step and across training."""

from __future__ import annotations

from configs.errors import UserError
from configs.generation import SampleSettings
from gpt2core.checkpoints.checkpoint import find_checkpoints, find_damage
from gpt2core.lens.maps import ReadingsByStep
from gpt2core.lens.reading import LensReading, read_lens
from gpt2core.text.tokenizer import load_tokenizer
from gpt2core.weights.loading import load_model
from tasks.runs.find import find_run
from tasks.runs.models import latest_run, resolve_model
from tasks.terminal.console import warn
from tasks.workspace.folders import Workspace


def look(
    reference: str | None, prompt: str, settings: SampleSettings, watch: list[str], position: int | None, ecco_compat: bool
) -> LensReading:
    """Read every layer of the model called `reference`; raises UserError for an unknown model or too long a prompt."""
    folder = resolve_model(reference)
    return read_lens(load_model(folder), load_tokenizer(folder), prompt, settings, watch, position, ecco_compat=ecco_compat)


def look_across(
    reference: str | None, prompt: str, settings: SampleSettings, watch: list[str], ecco_compat: bool
) -> ReadingsByStep:
    """The same at every checkpoint of a run (the latest unless named) that is still there; damaged ones are left out.

    Raises UserError if there is no such run, or none of its checkpoints.
    """
    run = find_run(Workspace.current(), reference) if reference else latest_run()
    history = {}
    for checkpoint in find_checkpoints(run.checkpoints):
        if damage := find_damage(checkpoint):
            warn("lens", f"{checkpoint.path} is left out: {damage}")
            continue
        model, tokenizer = load_model(checkpoint.path), load_tokenizer(checkpoint.path)
        history[checkpoint.step] = read_lens(model, tokenizer, prompt, settings, watch, ecco_compat=ecco_compat)
    if not history:
        raise UserError(f"Run {run.id} has no checkpoint to look at: wait for its first one, or choose another run.")
    return history
