"""Which failed tasks Prefect tries again: those whose server or network was away for a moment, and no others."""

from __future__ import annotations

from typing import Any

import httpx
import requests
from prefect.client.schemas.objects import State, TaskRun
from prefect.tasks import Task

CURABLE = (ConnectionError, TimeoutError, requests.ConnectionError, requests.Timeout, httpx.TransportError)
DELAYS = [2.0, 10.0]  # seconds before the second and the third attempt


def is_curable(_task: Task[..., Any], _run: TaskRun, state: State[Any]) -> bool:
    """For `retry_condition_fn`: whether the failure, or what lies behind it, is one that waiting can cure.

    A wrong config, a full disk or a diverged loss would only fail again.
    """
    error = state.result(raise_on_failure=False)
    while isinstance(error, BaseException):
        if isinstance(error, CURABLE):
            return True
        error = error.__cause__ or error.__context__
    return False
