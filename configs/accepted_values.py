"""Values of settings as people write them: what is taken for what, and the sentence for what is not taken."""

from __future__ import annotations

import codecs
import re
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import ValidatorFunctionWrapHandler

from configs.addresses import holds_secret


def known_encoding(name: str) -> str:
    """The encoding's usual name."""
    try:
        if not codecs.lookup(name)._is_text_encoding:
            raise LookupError
    except (LookupError, ValueError):
        raise ValueError(f"is {name!r}, which is no text encoding: use one such as utf-8, latin-1 or utf-16") from None
    return codecs.lookup(name).name


def as_delimiter(text: str | None) -> str | None:
    """One character; `tab` stands for a tab."""
    found = "\t" if text in ("tab", "\\t") else text
    if found is not None and (len(found) != 1 or found in '"\\\r\n'):
        raise ValueError(f"is {text!r}, but one character stands between cells: use , or ; or | or tab")
    return found


def no_float16(value: object) -> object:
    """The dtype as it is; float16, under any of its names, is refused with the reason."""
    if isinstance(value, str) and value.lower() in ("float16", "fp16", "half"):
        raise ValueError("float16 overflows at 65504 and would need loss scaling, which skips updates: use bfloat16 or float32")
    return value


def auto_or_switch(value: object, check: ValidatorFunctionWrapHandler) -> object:
    """auto, or a switch in any of pydantic's spellings, with one sentence for everything else."""
    try:
        return check(value)
    except ValueError:
        raise ValueError(f"is {value!r} but should be auto, true or false") from None


def with_digits(canary: str) -> str:
    """The canary as it is, if it holds a secret."""
    if not any(character.isdigit() and character.isascii() for character in canary):
        raise ValueError(f"is {canary!r}, which has no digits: a canary's secret is its digits, as in 'my PIN is 281265'")
    return canary


def as_bytes(value: object) -> object:
    """6GB, 800 MB, 1.5GiB and plain numbers, in bytes."""
    match = re.fullmatch(r"([0-9.]+) *([KMGT]?)(i?)B?", value.strip(), re.IGNORECASE) if isinstance(value, str) else None
    if match is None or match[1].count(".") > 1 or match[1] == ".":
        if isinstance(value, str):
            raise ValueError(f"is {value!r}: give a size such as 6GB or 800MB")
        return value
    power = " KMGT".index(match[2].upper() or " ")
    return round(float(match[1]) * (1024 if match[3] else 1000) ** power)


def as_seconds(value: object) -> object:
    """90s, 30min, 6h, 1d and plain numbers, in seconds."""
    match = re.fullmatch(r"([0-9]+) *(s|min|h|d)?", value.strip()) if isinstance(value, str) else None
    if isinstance(value, str) and match is None:
        raise ValueError(f"is {value!r}: give a duration such as 90s, 30min, 6h or 1d")
    return int(match[1]) * {"min": 60, "h": 3600, "d": 86400}.get(match[2], 1) if match else value


def known_timezone(name: str) -> str:
    """The time zone's name, if the machine knows it."""
    try:
        return ZoneInfo(name).key
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise ValueError(f"is {name!r}, which is no time zone: use one such as Europe/Berlin or UTC") from None


def no_secret_inside(address: str) -> str:
    """The address, if no password or token stands in it. The sentence does not repeat what was given."""
    if holds_secret(address):
        raise ValueError(
            "holds a password or a token, which would stand in records and logs: give credentials in environment variables, "
            "such as AWS_SECRET_ACCESS_KEY or fsspec's FSSPEC_HTTPS, or fetch the file beforehand"
        )
    return address


def hook_without_secret(hook: str) -> str:
    """A command, a place such as env:NAME, or a web address without a secret."""
    if hook.startswith(("http://", "https://")) and holds_secret(hook):
        raise ValueError("is an address that holds a secret: put it into an environment variable and write env:NAME")
    return hook


def not_a_secret(name: str) -> str:
    """Where a secret is found, env:NAME or file:PATH. The sentence does not repeat what was given, which may be the secret."""
    if not re.fullmatch(r"env:[A-Za-z_][A-Za-z0-9_]*|file:.+", name):
        raise ValueError(
            "holds an address itself, which may be a secret: put it into an environment variable and write env:NAME, "
            "or into a file and write file:PATH"
        )
    return name
