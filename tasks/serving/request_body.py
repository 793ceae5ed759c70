"""The body of a request: JSON of bounded size with strict fields, or the sentence for what it is instead."""

from __future__ import annotations

import json
from typing import TypeVar

from fastapi import Request
from pydantic import BaseModel, ConfigDict, ValidationError

from tasks.serving.refusal import RefusedRequestError

MOST_BYTES = 1 << 20
"""Bytes of a request."""
SAID = 60
"""Characters of a wrong value that are repeated."""


class Body(BaseModel):
    """What every body has in common: nothing is converted, and no field is overlooked."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False, use_attribute_docstrings=True)


Kind = TypeVar("Kind", bound=Body)


async def read_json(request: Request) -> object:
    """What a request's body holds; raises RefusedRequestError where it is too long or no JSON."""
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > MOST_BYTES:
            raise RefusedRequestError(f"The body has more than {MOST_BYTES:,} bytes.", status=413)
    try:
        return json.loads(bytes(body).decode())
    except (ValueError, RecursionError) as error:
        raise RefusedRequestError(f"The body is not JSON in UTF-8 ({str(error)[:80] or type(error).__name__}).") from None


def read_fields(kind: type[Kind], body: object) -> Kind:
    """The fields of a body that was JSON; raises RefusedRequestError that names the parameter."""
    if not isinstance(body, dict):
        raise RefusedRequestError('The body is no JSON object: send {"prompt": "..."}.')
    try:
        return kind.model_validate(body)
    except ValidationError as error:
        raise _refusal(kind, error) from None


def _refusal(kind: type[Body], error: ValidationError) -> RefusedRequestError:
    first = error.errors(include_url=False)[0]
    name = str(first["loc"][0]) if first["loc"] else ""
    if first["type"] == "extra_forbidden":
        known = ", ".join(kind.model_fields)
        return RefusedRequestError(f"{name[:SAID]!r} is not a parameter: known are {known}.", parameter=name[:SAID])
    if first["type"] == "missing":
        return RefusedRequestError(f"{name} is missing: give it.", parameter=name)
    wanted = first["msg"].removeprefix("Input should be ")
    return RefusedRequestError(f"{name} is {ascii(first['input'])[:SAID]}, but should be {wanted}.", parameter=name)
