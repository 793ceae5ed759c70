"""Complete prompts with a model from a run, a folder or the registry, or with every new checkpoint of a run."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from configs.errors import UserError
from configs.generation import CompletionSettings
from gpt2core.checkpoints.checkpoint import Checkpoint, find_checkpoints
from gpt2core.generation import completion
from gpt2core.generation.completion import Completion
from gpt2core.generation.inference import for_inference
from gpt2core.machine.durable import named_write_errors, write_text
from gpt2core.text.tokenizer import load_tokenizer
from gpt2core.weights.loading import load_model
from tasks.runs.find import find_run
from tasks.runs.models import resolve_model
from tasks.workspace.folders import Workspace

PATIENCE = 1.0  # seconds between two looks for a new checkpoint


class Writer:
    """A loaded model that completes prompts."""

    def __init__(self, folder: Path, settings: CompletionSettings) -> None:
        self._model = for_inference(load_model(folder), settings.weights)
        self._tokenizer = load_tokenizer(folder)
        self._settings = settings

    @classmethod
    def of(cls, reference: str | None, settings: CompletionSettings) -> Writer:
        """The model called `reference`, as `resolve_model` finds it."""
        return cls(resolve_model(reference), settings)

    def complete(self, prompts: Sequence[str]) -> Iterator[Completion]:
        """Each prompt's completions; raises UserError for prompts that are no text."""
        return completion.complete(self._model, self._tokenizer, prompts, self._settings)

    def stream(self, prompt: str) -> Iterator[str]:
        """The first completion piece by piece, the prompt in front if it is to be included."""
        if self._settings.include_prefix:
            yield self._settings.prefix + prompt
        yield from completion.stream(self._model, self._tokenizer, prompt, self._settings)

    def note(self, prompts: Sequence[str]) -> str | None:
        """What is to be said about text longer than the context."""
        return completion.beyond_context(self._model, self._tokenizer, prompts, self._settings)


def follow_run(name: str, prompts: Sequence[str], settings: CompletionSettings) -> Iterator[tuple[int, list[Completion]]]:
    """Step and completions of the run's newest checkpoint and then of each new one, until nobody works on the run any more.

    Raises UserError for an unknown run.
    """
    run, done = find_run(Workspace.current(), name), -1
    while True:
        running = run.state() == "running"  # asked first, so that the last checkpoint is not missed
        fresh = sorted((c for c in find_checkpoints(run.checkpoints) if c.step > done), key=lambda c: c.step)
        for checkpoint in fresh if done >= 0 else fresh[-1:]:
            done = checkpoint.step
            if (found := _complete_with(checkpoint, prompts, settings)) is not None:
                yield checkpoint.step, found
        if not running:
            return
        time.sleep(PATIENCE)


def _complete_with(checkpoint: Checkpoint, prompts: Sequence[str], settings: CompletionSettings) -> list[Completion] | None:
    try:
        writer = Writer(checkpoint.path, settings)
    except (UserError, OSError):
        if checkpoint.path.exists():
            raise
        return None  # pruned meanwhile
    return list(writer.complete(prompts))


def read_prompts(arguments: Sequence[str], file: Path | None) -> list[str]:
    """The prompts of the command line: texts, and the lines of a file, where `-` is the standard input.

    Without any it is the empty one. Raises UserError where the file cannot be read or holds nothing.
    """
    if file is None:
        return list(arguments) or [""]
    try:
        content = sys.stdin.buffer.read() if str(file) == "-" else file.read_bytes()
    except OSError as error:
        raise UserError(f"{file} cannot be read ({error.strerror}): give a text file with a prompt a line.") from None
    return [*arguments, *_lines(content, str(file))]


def _lines(content: bytes, name: str) -> list[str]:
    try:
        lines = content.decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise UserError(f"{name} is not UTF-8 at byte {error.start}: convert it, then give it again.") from None
    if not any(lines):
        raise UserError(f"{name} holds no prompt: write one a line.")
    return [line for line in lines if line]


def save(text: str, path: Path) -> None:
    """Write samples to a file, whole or not at all; raises UserError where that is not possible."""
    with named_write_errors(path):
        write_text(path, text)
