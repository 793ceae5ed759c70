"""Addresses as people write them: secrets inside of them are found, and never shown."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

_PASSWORD = re.compile(r"(?<=://)([^\s:/@]*):\S*@")
_NAME = r"[^=&\s]*(?:password|passwd|secret|token|signature|credential|api_?key)[^=&\s]*|sig|key"
_IN_QUERY = re.compile(rf"([?&](?:{_NAME})=)[^&\s]+", re.IGNORECASE)


def shown(text: str) -> str:
    """The text with what is secret in its addresses blotted out; rather too much than too little."""
    return _IN_QUERY.sub(r"\1***", _PASSWORD.sub(r"\1:***@", text))


def holds_secret(address: str) -> bool:
    """Whether a password, a token or a signature stands in the address."""
    if "://" not in address:
        return False
    try:
        parts = urlsplit(address)
    except ValueError:
        return shown(address) != address
    bearer = parts.scheme in ("http", "https") and parts.username
    return bool(parts.password or bearer or _IN_QUERY.search(address))
