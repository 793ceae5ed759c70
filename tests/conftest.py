"""Where the tests find their inputs."""

import os
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[1]
SHARED = Path(os.environ.get("GPT2FLOW_SHARED", PROJECT.parent / "shared"))


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of large real inputs; a user's clone has none of it."""
    if not SHARED.is_dir():
        if os.environ.get("CI"):
            pytest.fail(f"{SHARED} is missing, and in CI it never may be")
        pytest.skip(f"{SHARED} is missing: set GPT2FLOW_SHARED to run the tests on large real inputs")
    return SHARED


@pytest.fixture(scope="session")
def golden() -> Path:
    """Golden files that travel with the project."""
    return PROJECT / "tests" / "golden"
