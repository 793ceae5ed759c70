"""A task is tried again only where waiting can help."""

import httpx
import pytest
import requests
from botocore.exceptions import ClientError, EndpointConnectionError
from prefect import task
from prefect.client.schemas.objects import TaskRun
from prefect.states import Failed
from sqlalchemy.exc import OperationalError

from configs.errors import UserError
from tasks.register_model import register_model
from tasks.tracking.retrying import DELAYS, is_curable


@task
def some_task() -> None: ...


def curable(error: Exception) -> bool:
    return is_curable(some_task, TaskRun.model_construct(), Failed(data=error))


def caused_by(cause: Exception) -> UserError:
    try:
        raise UserError("MLflow does not answer") from cause
    except UserError as error:
        return error


AWAY = [ConnectionResetError(), TimeoutError(), requests.ConnectionError(), httpx.ConnectError("")]
AWAY += [OperationalError("SELECT 1", {}, Exception("PostgreSQL is away")), EndpointConnectionError(endpoint_url="http://s3")]
REFUSED = ClientError({"Error": {"Code": "InvalidAccessKeyId"}}, "PutObject")


@pytest.mark.parametrize("cause", AWAY)
def test_a_server_that_is_away_is_tried_again(cause: Exception) -> None:
    assert curable(cause)
    assert curable(caused_by(cause))


@pytest.mark.parametrize("cause", [UserError("wrong config"), OSError(28, "disk full"), ValueError("bug"), REFUSED])
def test_what_would_only_fail_again_is_not(cause: Exception) -> None:
    assert not curable(cause)
    assert not curable(caused_by(cause))


def test_registering_is_tried_again() -> None:
    assert register_model.retries == len(DELAYS)
    assert register_model.retry_condition_fn is is_curable
