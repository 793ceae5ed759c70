"""Where the tests find their inputs, and a workspace of their own for all state."""

import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

for name in ("PREFECT_API_URL", "PREFECT_HOME", "MLFLOW_TRACKING_URI"):
    os.environ.pop(name, None)
os.environ["GPT2FLOW_HOME"] = tempfile.mkdtemp(prefix="gpt2flow-tests-")  # before Prefect and MLflow are imported anywhere

settings.register_profile("shared machine", deadline=None)  # how long an example takes says nothing while others compute
settings.load_profile("shared machine")

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


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 200 KB."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", str(folder)], capture_output=True, check=False)
    if mount.returncode:
        pytest.skip("mounting a small file system needs root")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)
