"""The one place that maps a task over pieces of work, wherever they are done."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from urllib.parse import urlsplit

from prefect import Task
from prefect.context import FlowRunContext, TaskRunContext
from prefect.exceptions import CrashedRun
from prefect.futures import PrefectFuture, wait
from prefect.task_runners import TaskRunner

from configs.cluster import ClusterSettings
from configs.errors import UserError
from gpt2core.machine.devices import visible_gpus
from tasks.terminal.console import say
from tasks.terminal.stop_signals import keeping_handlers

HOST = "127.0.0.1"
CONNECTING = 30.0  # seconds
LET_CHILDREN_STOP = {"RAY_kill_child_processes_on_worker_exit": "0"}
"""In the environment of Ray's workers: otherwise a run that a worker has begun is killed with it, and saves no checkpoint."""


def map_task(task: Task[..., Any], cluster: ClusterSettings, computes: bool, **parameters: Any) -> list[Any]:
    """What the task returns for each piece, in their order; the first error is raised when nobody works any more.

    `parameters` are as for `Task.map`. A piece whose worker is lost is done again by another one. `computes` says that a piece
    wants a GPU for itself, where there are any. Raises UserError where the cluster is not there or fails.
    """
    if cluster.runner == "local":
        return _results(task.map(**parameters))
    pieces = max(len(value) for value in parameters.values() if isinstance(value, list))
    start = _dask if cluster.runner == "dask" else _ray
    try:
        with start(cluster, pieces, computes) as runner:
            say("cluster", f"{pieces} pieces of work for {cluster.address or f'a {cluster.runner} cluster on this machine'}")
            with _without_parameters():
                futures = runner.map(task, parameters)
            return _results(futures)
    except ModuleNotFoundError as error:
        missing = f"cluster.runner {cluster.runner} needs {error.name}: pip install 'gpt2flow[{cluster.runner}]'."
        raise UserError(missing) from None
    except Exception as error:
        if type(error).__module__.split(".")[0] not in ("distributed", "ray") and not isinstance(error, CrashedRun):
            raise
        raise _failure(cluster, error) from error


def _results(futures: list[PrefectFuture[Any]]) -> list[Any]:
    wait(futures)
    return [future.result() for future in futures]


@contextmanager
def _without_parameters() -> Iterator[None]:
    """Prefect sends its context along with every piece; what flow and task were called with may be large, or bound to here."""
    with ExitStack() as stack:
        for kind in (FlowRunContext, TaskRunContext):
            if context := kind.get():
                stack.enter_context(context.model_copy(update={"parameters": {}}))
        yield


def _failure(cluster: ClusterSettings, error: Exception) -> UserError:
    where = cluster.address or "that was started here"
    reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
    return UserError(f"The {cluster.runner} cluster {where} failed ({reason}): look after it, then run the same command again.")


@contextmanager
def _dask(cluster: ClusterSettings, pieces: int, computes: bool) -> Iterator[TaskRunner[Any]]:
    from distributed import Nanny, Scheduler, SpecCluster
    from prefect_dask.task_runners import DaskTaskRunner

    if cluster.address:
        runner = DaskTaskRunner(address=cluster.address, client_kwargs={"timeout": CONNECTING})
    else:
        scheduler = {"cls": Scheduler, "options": {"host": HOST, "port": 0, "dashboard_address": f"{HOST}:0"}}
        common = {"host": HOST, "nthreads": 1, "memory_limit": 0, "silence_logs": logging.WARNING}
        environments = _environments(cluster, pieces, computes)
        workers = {number: {"cls": Nanny, "options": {**common, "env": env}} for number, env in enumerate(environments)}
        runner = DaskTaskRunner(cluster_class=SpecCluster, cluster_kwargs={"scheduler": scheduler, "workers": workers})
    with runner:
        try:
            runner.client  # noqa: B018  # connects, which the runner would do with the first piece of work
        except (OSError, RuntimeError) as error:
            raise _failure(cluster, error) from error
        yield runner


@contextmanager
def _ray(cluster: ClusterSettings, pieces: int, computes: bool) -> Iterator[TaskRunner[Any]]:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    import ray
    from prefect_ray.context import remote_options
    from prefect_ray.task_runners import RayTaskRunner

    # with several machines in mind Ray takes 127.0.0.1 for a slip, and listens to all networks; its own way to say so is a
    # variable of the environment, which is too late where somebody has imported Ray before
    ray._private.ray_constants.ENABLE_RAY_CLUSTER = bool(cluster.address)
    settings: dict[str, Any] = {"runtime_env": {"env_vars": LET_CHILDREN_STOP}}
    if not cluster.address:
        settings |= {"_node_ip_address": HOST, "include_dashboard": False, "logging_level": logging.ERROR}
        settings |= {"num_cpus": len(_environments(cluster, pieces, computes)), "log_to_driver": False}
    with ExitStack() as stack:
        try:
            _require_listener(cluster.address)
            with keeping_handlers():  # Ray's own would end this process at once
                runner = stack.enter_context(RayTaskRunner(cluster.address, settings))
        except Exception as error:  # Ray raises that very class where it does not come up
            raise _failure(cluster, error) from error
        gpus = computes and ray.cluster_resources().get("GPU", 0)
        with remote_options(num_gpus=1 if gpus else 0):
            yield runner


def _require_listener(address: str | None) -> None:
    """Ray itself looks for an absent cluster for five minutes, and then ends this process; raises OSError at once."""
    place = urlsplit(f"//{(address or '').removeprefix('ray://')}")
    if place.hostname and place.port:
        socket.create_connection((place.hostname, place.port), CONNECTING).close()


def _environments(cluster: ClusterSettings, pieces: int, computes: bool) -> list[dict[str, str]]:
    """For each worker of a cluster on this machine; where there are GPUs, those that compute get one each."""
    gpus = visible_gpus() if computes else []
    count = cluster.workers or min(pieces, len(gpus) or os.cpu_count() or 1)
    return [{"CUDA_VISIBLE_DEVICES": gpus[number % len(gpus)]} if gpus else {} for number in range(count)]
