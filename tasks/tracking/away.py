"""What is raised where MLflow's server, its database or the place of its files does not answer."""

from __future__ import annotations

import logging
from importlib.util import find_spec

from mlflow.exceptions import MlflowException
from sqlalchemy.exc import DBAPIError

# It logs a traceback each time that its database is away, which is said here in a sentence.
logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)


def _of_s3() -> tuple[type[Exception], ...]:
    if find_spec("boto3") is None:
        return ()
    from boto3.exceptions import Boto3Error
    from botocore.exceptions import BotoCoreError, ClientError

    return Boto3Error, BotoCoreError, ClientError


S3_ERRORS = _of_s3()
AWAY: tuple[type[Exception], ...] = (MlflowException, OSError, DBAPIError, *S3_ERRORS)
"""For `except`: what must not stop a run whose figures can be delivered later."""
