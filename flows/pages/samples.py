"""Completions as text, as JSON lines or as a table."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from typing import Literal

from rich.console import Console
from rich.table import Table
from rich.text import Text

from gpt2core.generation.completion import Completion

Format = Literal["text", "jsonl", "table"]
DELIMITER = "=" * 20
"""Between two samples, as gpt-2-simple writes it."""


def render(completions: Sequence[Completion], form: Format, include_prefix: bool, step: int | None = None) -> str:
    """The completions, ending with a line end; `step` is the checkpoint's, where there is one."""
    if form == "jsonl":
        before = {} if step is None else {"step": step}
        return "".join(json.dumps({**before, **asdict(each)}, ensure_ascii=False) + "\n" for each in completions)
    if form == "table":
        return _table(completions, step)
    texts = [(each.prompt if include_prefix else "") + each.text for each in completions]
    heading = "" if step is None else f"======== step {step} ========\n"
    return heading + f"\n{DELIMITER}\n".join(texts) + "\n"


def print_pieces(pieces: Iterator[str]) -> None:
    """Print a text while it comes into being."""
    for piece in pieces:
        print(piece, end="", flush=True)
    print()


def converse(stream: Callable[[str], Iterator[str]]) -> None:
    """Ask for a prompt and print what `stream` makes of it, until there is no more input."""
    while True:
        try:
            prompt = input("> ")
        except EOFError:
            print()
            return
        print_pieces(stream(prompt))


def _table(completions: Sequence[Completion], step: int | None) -> str:
    table = Table("prompt", "sample", "text", "tokens", "ended by", title=None if step is None else f"step {step}")
    for each in completions:
        ended = {"length": "length", "end_of_text": "end of text", "stop": "stop"}[each.ending]
        table.add_row(_visible(each.prompt), str(each.sample), _visible(each.text), f"{len(each.tokens):,}", ended)
    buffer = io.StringIO()
    Console(file=buffer, width=Console().width, highlight=False).print(table)
    return buffer.getvalue()


def _visible(text: str) -> Text:
    """Without characters that would move the cursor or change the terminal."""
    return Text("".join(each if each.isprintable() or each == "\n" else "\ufffd" for each in text))
