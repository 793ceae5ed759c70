"""Which failed tasks Prefect tries again: those whose server or network was away for a moment, and no others."""

from __future__ import annotations

import sys
from typing import Any

import httpx
import requests
from prefect.client.schemas.objects import State, TaskRun
from prefect.tasks import Task
from sqlalchemy.exc import InterfaceError, OperationalError

NETWORK = (ConnectionError, TimeoutError, requests.ConnectionError, requests.Timeout, httpx.TransportError)
CURABLE = (*NETWORK, OperationalError, InterfaceError)
DELAYS = [2.0, 10.0]  # seconds before the second and the third attempt


def is_curable(_task: Task[..., Any], _run: TaskRun, state: State[Any]) -> bool:
    """For `retry_condition_fn`: whether the failure, or what lies behind it, is one that waiting can cure.

    A wrong config, a full disk or a diverged loss would only fail again.
    """
    error = state.result(raise_on_failure=False)
    while isinstance(error, BaseException):
        if isinstance(error, (*CURABLE, *_of_s3())):
            return True
        error = error.__cause__ or error.__context__
    return False


def _of_s3() -> tuple[type[Exception], ...]:
    """An error of a library that was never imported cannot be there."""
    if "botocore" not in sys.modules:
        return ()
    from botocore.exceptions import ConnectionError as NoConnection
    from botocore.exceptions import HTTPClientError

    return NoConnection, HTTPClientError
