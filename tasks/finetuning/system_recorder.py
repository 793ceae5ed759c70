"""Writes what the machine does while a run trains: processor, memory, disk, network and GPU, under MLflow's names."""

from __future__ import annotations

import time
from contextlib import suppress
from typing import Any

import psutil
from mlflow.system_metrics.metrics.cpu_monitor import CPUMonitor
from mlflow.system_metrics.metrics.disk_monitor import DiskMonitor
from mlflow.system_metrics.metrics.gpu_monitor import GPUMonitor
from mlflow.system_metrics.metrics.network_monitor import NetworkMonitor

from gpt2core.training.callback import Callback, StepsDone
from tasks.runs.run_folder import RunFolder

INTERVAL = 10.0  # seconds
MONITORS: tuple[Any, ...] = (CPUMonitor, DiskMonitor, NetworkMonitor, GPUMonitor)


class SystemRecorder(Callback):
    """A row at most every `INTERVAL` seconds; MLflow shows `system/...` on a page of its own."""

    def __init__(self, folder: RunFolder) -> None:
        self._folder = folder
        self._monitors = []
        for monitor in MONITORS:
            with suppress(ImportError, RuntimeError):  # no nvidia-ml-py, or no GPU
                self._monitors.append(monitor())
        psutil.cpu_percent()  # it measures from one call to the next
        self._recorded = time.monotonic()

    def on_steps_done(self, done: StepsDone) -> None:
        """Append a row if it is time for one."""
        if time.monotonic() - self._recorded < INTERVAL:
            return
        self._recorded = time.monotonic()
        figures = {"process_memory_megabytes": psutil.Process().memory_info().rss / 1e6}
        for monitor in self._monitors:
            monitor.collect_metrics()
            figures |= monitor.aggregate_metrics()
            monitor.clear_metrics()
        row = {f"system/{name}": float(value) for name, value in figures.items()}
        self._folder.system.append([{"step": done.updates[-1].step, **row}])
