"""JSON objects in files that carry a seal of their own bytes, so that every flipped bit is found.

A sealed file begins `{"seal": "<XXH3-128 of every byte behind this comma>",` and goes on with the object's own lines, so it is
JSON like any other. Files of earlier versions, with a "checksum" of the parsed content or no seal, are read as well.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import xxhash

from configs.errors import UserError
from gpt2core.machine.durable import as_json, write_text

HEAD = b'{"seal": "'
OLD_HASHES = (xxhash.xxh3_64, xxhash.xxh3_128, hashlib.sha256)


class DamagedFileError(UserError):
    """A sealed file is not what was written."""

    def __init__(self, path: Path) -> None:
        super().__init__(f"{path} is damaged, its content differs from when it was written: restore it from a copy.")


def write_sealed(path: Path, value: dict[str, Any]) -> None:
    """Replace `path` by the object (not empty, without a key "seal") under its seal, atomically and durably."""
    content = as_json(value)[1:]
    write_text(path, f"{_head(content.encode()).decode()}{content}")


def read_sealed(path: Path) -> dict[str, Any]:
    """The object in a sealed file; raises DamagedFileError where it is not what was written, OSError where it is not there."""
    return _read(path)[0]


def seal_of(path: Path) -> str:
    """The seal, which tells the file from all others; raises as `read_sealed`."""
    return _read(path)[1]


def _read(path: Path) -> tuple[dict[str, Any], str]:
    raw = path.read_bytes()
    try:
        return _opened(raw) if raw.startswith(HEAD) else _opened_of_earlier_version(raw)
    except ValueError as error:
        raise DamagedFileError(path) from error


def _head(content: bytes) -> bytes:
    return b'%s%s",' % (HEAD, xxhash.xxh3_128_hexdigest(content).encode())


def _opened(raw: bytes) -> tuple[dict[str, Any], str]:
    """Raises ValueError where the seal is broken."""
    content = raw[len(_head(b"")) :]
    if not raw.startswith(_head(content)):
        raise ValueError("the seal is broken")
    value = json.loads(raw)
    return value, value.pop("seal")


def _opened_of_earlier_version(raw: bytes) -> tuple[dict[str, Any], str]:
    """As `_opened`. The checksum is of the content; comparing the text finds what leaves the content as it is."""
    text = raw.decode()
    value = json.loads(text)
    if not isinstance(value, dict) or text != as_json(value):
        raise ValueError("the text is not as it was written")
    seal = value.pop("checksum", "")
    content = json.dumps(value, sort_keys=True).encode()
    if seal and seal not in (made(content).hexdigest() for made in OLD_HASHES):
        raise ValueError("the checksum is another")
    return value, seal
