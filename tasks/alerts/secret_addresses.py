"""Addresses that hold secrets: read where the config says, when they are needed, and never repeated in a sentence."""

from __future__ import annotations

import os
import re
from pathlib import Path

from configs.errors import UserError

SHORTEST_PART = 4
"""Characters of a part of an address that is blotted out in texts; shorter ones are in every text."""


def read_addresses(place: str) -> list[str]:
    """The addresses at env:NAME or file:PATH; raises UserError, which names the place alone, where there is none."""
    kind, _, where = place.partition(":")
    if kind == "env":
        found = os.environ.get(where, "")
    else:
        try:
            found = Path(where).expanduser().read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is no text"
            raise UserError(f"{place} cannot be read ({reason}): write an address a line into that file.") from None
    lines = [line.strip() for line in found.splitlines()]
    addresses = [line for line in lines if line and not line.startswith("#")]
    if not addresses:
        missing = "is not set" if kind == "env" else "holds no address"
        raise UserError(f"{place} {missing}: give an address such as https://... or mailtos://USER:PASSWORD@HOST there.")
    return addresses


def without_secrets(text: str, address: str) -> str:
    """The text with every part of the address blotted out."""
    parts = [part for part in re.split(r"[:/@?&=+\s]+", address) if len(part) >= SHORTEST_PART]
    for part in sorted({address, *parts}, key=len, reverse=True):
        text = text.replace(part, "***")
    return text
