"""A real MLflow server for a test, without the processes of its jobs, which would keep a small machine busy."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tasks.servers.server_process import ServerProcess, ServerSpec, free_port, stop_all

PATIENCE = 300.0  # seconds


@contextmanager
def mlflow_server(database: str, folder: Path) -> Iterator[str]:
    """Its address, once it answers; its log and its artifacts lie in the folder."""
    port = free_port(8600)
    assert port is not None
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", database, "--artifacts-destination", str(folder / "artifacts")]
    quiet = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    server = ServerProcess(ServerSpec("MLflow", command, port, "/health", folder / "server.log", quiet))
    try:
        deadline = time.monotonic() + PATIENCE
        while not server.answers():
            assert time.monotonic() < deadline, server.last_words()
            time.sleep(0.5)
        yield f"http://127.0.0.1:{port}"
    finally:
        stop_all([server])
