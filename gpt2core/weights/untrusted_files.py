"""Folders and small text files that a stranger may have made: links, sizes and contents are checked before they are used."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from configs.errors import UserError

MOST_TEXT = 1 << 28
"""Bytes of the largest text file that is read; the largest real ones are vocabularies of some 20 MB."""


def require_own_files(folder: Path) -> None:
    """Raises UserError where something in the folder is a link to outside of it.

    The Hugging Face Hub's cache is the exception: its snapshots consist of links to ../../blobs/.
    """
    try:
        links = [entry for entry in sorted(folder.iterdir()) if entry.is_symlink()]
    except OSError as error:
        raise UserError(f"{folder} cannot be read ({error.strerror}): check its permissions.") from error
    for link in links:
        target = link.readlink()
        cached = folder.parent.name == "snapshots" and target.parts[:-1] == ("..", "..", "blobs")
        if (target.is_absolute() or ".." in target.parts) and not cached:
            raise UserError(f"{link} is a link to {target}, outside its folder: put the file itself there.")


def read_object(file: Path) -> dict[str, Any]:
    """A JSON object; raises UserError where the file holds anything else."""
    try:
        values = json.loads(read_text(file))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{file} is not valid JSON ({error}): fetch it again.") from error
    if not isinstance(values, dict):
        raise UserError(f"{file} is not a JSON object: fetch it again.")
    return values


def read_text(file: Path) -> str:
    """A text file as a whole; raises UserError where it cannot be read, is no text or is too large to be what it should be."""
    try:
        if (size := file.stat().st_size) > MOST_TEXT:
            raise UserError(f"{file} has {size:,} bytes, which no file of its kind has: fetch it again.")
        return file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{file} is not text: fetch it again.") from error
    except OSError as error:
        raise UserError(f"{file} cannot be read ({error.strerror}): check its permissions.") from error
