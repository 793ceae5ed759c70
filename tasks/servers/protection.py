"""Who reaches a server, and the one rule for all that serve: from other machines nobody gets in without a secret."""

from __future__ import annotations

import ipaddress
from contextlib import suppress

from configs.errors import UserError
from tasks.servers.server_process import HOST


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches what listens there."""
    with suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost"


def from_here(host: str) -> str:
    """The address at which this machine reaches what listens at `host`, which may stand for all addresses."""
    with suppress(ValueError):
        if ipaddress.ip_address(host).is_unspecified:
            return HOST
    return host


def require_protection(host: str, protected: bool, what: str, remedy: str) -> None:
    """Raise UserError for an address that other machines reach, unless that is protected or meant.

    `what` anybody could do then, `remedy` is what to set.
    """
    if protected or is_loopback(host):
        return
    raise UserError(
        f"Anybody who reaches {host} could {what}: {remedy}, add --unprotected if that is meant, or leave --host out."
    )
