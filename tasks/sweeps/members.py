"""The runs of a sweep on the workers of a cluster, each in a process of its own that stops when the sweep is gone."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from uuid import UUID

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.context import FlowRunContext
from prefect.settings import PREFECT_API_URL
from pydantic import TypeAdapter

from configs.cluster import HERE
from configs.grid import Member, Sweep
from configs.schema import RunConfig
from tasks.clusters.mapping import map_task
from tasks.finetuning.result import RunResult
from tasks.runs.flow_run_locks import FlowRunLock
from tasks.sweeps.outcomes import Outcome
from tasks.terminal.console import say
from tasks.workspace.folders import Workspace

LOOK_INTERVAL = 0.5  # seconds
PROGRAM = "flows.cli.member"


def train_on_cluster(plan: Sweep) -> list[Outcome]:
    """Train every run of a sweep on a worker of its cluster; what its processes write lies in the workspace's flow-runs."""
    context = FlowRunContext.get()
    assert context is not None and context.flow_run is not None
    workspace = Workspace.current().root
    say("logs", f"{workspace / 'flow-runs' / plan.id}-*.log")
    return map_task(
        train_member,
        plan.members[0].config.cluster,
        computes=True,
        member=plan.members,
        number=list(range(1, len(plan.members) + 1)),
        sweep=plan.id,
        flow_run=context.flow_run.id,
        workspace=workspace,
    )


@task(task_run_name="train {member.label}", cache_policy=NO_CACHE, persist_result=False)
def train_member(member: Member, number: int, sweep: str, flow_run: UUID, workspace: Path) -> Outcome:
    """Train one run in another process; it stops, with its checkpoint, when the sweep's flow run is no longer worked on.

    An error is the outcome. A run whose worker dies stops too, and goes on at the worker that gets it next.
    """
    if (here := Workspace.current().root) != workspace:
        problem = f"the worker on {socket.gethostname()} has the workspace {here}: start it with GPT2FLOW_HOME={workspace}"
        return Outcome(member, problem=problem)
    log = workspace / "flow-runs" / f"{sweep}-{number}.log"
    with tempfile.TemporaryDirectory() as scratch:
        result = Path(scratch) / "result.json"
        code = _run(member.unregistered(), sweep, result, log, FlowRunLock.of(Workspace(workspace), flow_run))
        if code == 0:
            return Outcome(member, TypeAdapter(RunResult).validate_json(result.read_bytes()))
    if code < 0:
        return Outcome(member, problem=f"its process was killed by {signal.Signals(-code).name}")
    return Outcome(member, problem="".join(log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-1:]))


def _run(config: RunConfig, sweep: str, result: Path, log: Path, sweep_lock: FlowRunLock) -> int:
    """Have the config trained by a process; returns its exit code. Its standard input ends when it shall stop."""
    command = [sys.executable, "-m", PROGRAM, sweep, str(result)]
    server = PREFECT_API_URL.value()  # the sweep's, which came with the task
    environment = {**os.environ, **({"PREFECT_API_URL": server} if server else {})}
    with (
        log.open("wb") as output,
        subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=output, stderr=output, env=environment, start_new_session=True
        ) as process,
    ):
        assert process.stdin is not None
        process.stdin.write(config.model_copy(update={"cluster": HERE}).model_dump_json().encode() + b"\n")
        process.stdin.flush()
        while process.poll() is None and sweep_lock.is_held:
            time.sleep(LOOK_INTERVAL)
    return process.returncode
