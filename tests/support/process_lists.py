"""What every list of processes shows while a test goes on."""

import threading
from contextlib import suppress

import psutil

INTERVAL = 0.2  # seconds


class ProcessLists(threading.Thread):
    """Reads the command lines of all processes again and again, and keeps those that hold a secret; a context manager."""

    def __init__(self, secrets: list[str]) -> None:
        super().__init__(daemon=True)
        self.found: set[str] = set()
        self.seen: set[int] = set()
        self._secrets = secrets
        self._ended = threading.Event()

    def __enter__(self) -> "ProcessLists":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self.join()

    def run(self) -> None:
        while not self._ended.wait(INTERVAL):
            for process in psutil.process_iter():
                with suppress(psutil.Error):
                    shown = " ".join(process.cmdline())
                    self.seen.add(process.pid)
                    self.found.update([shown] if any(secret in shown for secret in self._secrets) else [])
