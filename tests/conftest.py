"""Where the tests find their inputs, and a workspace of their own for all state."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path

import pytest
from hypothesis import settings

for name in ("PREFECT_API_URL", "PREFECT_HOME", "MLFLOW_TRACKING_URI"):
    os.environ.pop(name, None)
os.environ["GPT2FLOW_HOME"] = tempfile.mkdtemp(prefix="gpt2flow-tests-")  # before Prefect and MLflow are imported anywhere
os.environ["GPT2FLOW_LOCKS"] = os.environ[
    "GPT2FLOW_HOME"
]  # tests that run at the same time do not wait for each other's devices

settings.register_profile("shared machine", deadline=None)  # how long an example takes says nothing while others compute
settings.load_profile("shared machine")

PROJECT = Path(__file__).parents[1]
SHARED = Path(os.environ.get("GPT2FLOW_SHARED", PROJECT.parent / "shared"))
SERVED = {"tasks", "flows", "faults"}
"""Folders of tests that use Prefect and MLflow."""
SLOWLY = """
import sys, time
import tasks.servers.cancellation, tasks.tracking.mlflow_mirror
from gpt2core.training.trainer import Trainer
tasks.servers.cancellation.LOOK_INTERVAL = tasks.tracking.mlflow_mirror.DELIVERY_INTERVAL = 0.3
update, pause = Trainer._update, float(sys.argv.pop(1))
def update_after_a_pause(trainer):
    print("an update begins", flush=True)
    for _ in range(100):  # a signal just before a sleep is only seen at its end, so they are short
        time.sleep(pause / 100)
    update(trainer)
Trainer._update = update_after_a_pause
from flows.cli.main import main
main()
"""
SlowProcess = Callable[..., AbstractContextManager[subprocess.Popen[str]]]


@contextmanager
def _slow_process(served: str, *arguments: str, until: str, pause: float) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-u", "-c", SLOWLY, str(pause), *arguments]
    environment = {"PREFECT_API_URL": served, **os.environ}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        assert process.stdout is not None
        seen: list[str] = []
        while until not in (line := process.stdout.readline()):
            seen.append(line)
            assert line, "".join(seen)
        yield process


@pytest.fixture(scope="session")
def database_cache(pytestconfig: pytest.Config) -> Path:
    """Where `with_databases` keeps what it has made."""
    assert pytestconfig.cache is not None
    return pytestconfig.cache.mkdir("databases")


@pytest.fixture(scope="session", autouse=True)
def own_databases(request: pytest.FixtureRequest) -> None:
    """The tests' workspace has its databases where Prefect or MLflow are used."""
    if any(SERVED & set(item.path.relative_to(PROJECT).parts) for item in request.session.items):
        from databases import with_databases  # now that the environment names the workspace

        from tasks.workspace.folders import Workspace

        with_databases(Workspace.current(), request.getfixturevalue("database_cache"))


@pytest.fixture(scope="session")
def prefect_url(own_databases: None) -> str:
    """Prefect's server of this process, for others: one of their own takes each of them seconds."""
    from prefect import get_client

    with get_client(sync_client=True) as client:
        return str(client.api_url)


@pytest.fixture(scope="session")
def slow_process(prefect_url: str) -> SlowProcess:
    """gpt2flow in a process of its own, updates `pause` seconds apart, up to the line of its output that contains `until`."""
    return partial(_slow_process, prefect_url)


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


@pytest.fixture(scope="session")
def browser() -> list[str]:
    """Chromium without a window and without a network; the page's address follows."""
    names = ("chromium", "chromium-browser", "google-chrome", "chrome")
    found = next((path for path in map(shutil.which, names) if path), None)
    if found is None:
        pytest.skip("no Chromium here; pages are checked without one in test_page.py and test_ledger.py")
    offline = ["--proxy-server=127.0.0.1:9", "--host-resolver-rules=MAP * ~NOTFOUND"]
    return [found, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--virtual-time-budget=3000", *offline]
