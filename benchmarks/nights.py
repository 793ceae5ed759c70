"""From a night's moment to its first update, what `gpt2flow up` takes while it waits, and how its databases grow with runs.

    python -m benchmarks.nights [NIGHTS] [RUNS]      # 5, 100

Real servers, a worker and a tiny model in a workspace of their own.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import psutil

from benchmarks.processor import describe
from configs.schema import RunConfig
from tasks.servers.running import RunningDashboard, running_dashboard
from tasks.servers.server_process import free_port
from tasks.workspace.folders import Workspace

EVERY = 30  # seconds from one night to the next
PATIENCE = 600.0  # seconds
UPDATES = 1000
SECTIONS: dict[str, dict[str, object]] = {
    "tokenizer": {"vocab_size": 300},
    "model": {"n_ctx": 16, "n_embd": 16, "n_head": 2, "n_layer": 2},
    "evaluate": {"every": UPDATES // 4, "prompts": ["The "], "max_new_tokens": 8},
    "registry": {"enabled": False},
}


def main(nights: int, runs: int) -> None:
    print(f"{describe()}, {os.cpu_count()} cores")
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        workspace = Workspace(folder / "workspace")
        environment = _environment_of(workspace, folder / "locks")
        with _served(workspace, environment) as served:
            _report_memory(served)
            _report_first_steps(served, folder, environment, nights)
            _report_databases(served, workspace, folder, environment, runs)


def _environment_of(workspace: Workspace, locks: Path) -> dict[str, str]:
    """Without what importing `tasks` has said about the workspace that is the current one."""
    other = ("PREFECT_HOME", "PREFECT_API_URL", "MLFLOW_TRACKING_URI")
    kept = {name: value for name, value in os.environ.items() if name not in other}
    return {**kept, "GPT2FLOW_HOME": str(workspace.root), "GPT2FLOW_LOCKS": str(locks)}


@contextmanager
def _served(workspace: Workspace, environment: dict[str, str]) -> Iterator[RunningDashboard]:
    """Servers and worker of the workspace, up and waiting for work."""
    ports = ["--mlflow_port", str(free_port(5600)), "--prefect_port", str(free_port(4600))]
    _gpt2flow(environment, "up", "--detach", *ports)
    try:
        running = running_dashboard(workspace)
        assert running is not None
        yield running
    finally:
        _gpt2flow(environment, "down")


def _report_memory(served: RunningDashboard) -> None:
    """Proportional set sizes, in which a page that several processes share counts once."""
    time.sleep(60)
    roots = {**dict(zip(served.addresses, (server.pid for server in served.servers), strict=True)), "up": served.process.pid}
    sizes = {name: _memory(psutil.Process(pid), but=set(roots.values()) - {pid}) for name, pid in roots.items()}
    print("\n| process with all that it has started | memory (PSS), MB |\n|---|---|")
    for name, size in {**sizes, "**together**": sum(sizes.values())}.items():
        print(f"| {name} | {size / 1e6:,.0f} |")


def _memory(root: psutil.Process, but: set[int]) -> int:
    family = [root, *(child for child in root.children(recursive=True) if child.pid not in but)]
    kept = [process for process in family if not {parent.pid for parent in process.parents()} & but or process == root]
    return sum(int(process.memory_full_info().pss) for process in kept)


def _report_first_steps(served: RunningDashboard, folder: Path, environment: dict[str, str], nights: int) -> None:
    """Every night finds a new document, or there would be nothing to do."""
    texts, waits = folder / "texts", []
    texts.mkdir()
    config = _config("night", texts, folder)
    for night in range(nights):
        documents = [f"Night {night}, note {number}: {number * night} things were seen." for number in range(100)]
        (texts / f"{night}.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in documents))
        if not night:
            _gpt2flow(environment, "deploy", config, "--every", f"{EVERY}s")
        waits.append(_seconds_to_first_step(served, Path(environment["GPT2FLOW_HOME"]) / "runs", night))
    _gpt2flow(environment, "pause", "night")
    print(f"\nSeconds from a night's moment to its first update, {nights} nights: {_summary(waits)}")


def _seconds_to_first_step(served: RunningDashboard, runs: Path, known: int) -> float:
    """Of the newest night: from the time that its schedule names to the time that its first row bears."""

    def first_row() -> dict[str, float] | None:
        files = sorted(runs.glob("night-*/timing.jsonl"), key=lambda file: file.stat().st_mtime)
        lines = files[-1].read_text().splitlines() if len(files) > known else []
        return json.loads(lines[0]) if lines else None

    row = _wait_for(first_row)
    begun = {"flow_runs": {"state": {"type": {"any_": ["RUNNING", "COMPLETED"]}}}, "sort": "START_TIME_DESC", "limit": 1}
    (flow_run,) = _ask(served, "/flow_runs/filter", {"deployments": {"name": {"any_": ["night"]}}, **begun})
    _wait_for(lambda: _ask(served, f"/flow_runs/{flow_run['id']}")["state_type"] == "COMPLETED")
    return float(row["time"]) / 1000 - datetime.fromisoformat(flow_run["expected_start_time"]).timestamp()


def _report_databases(
    served: RunningDashboard, workspace: Workspace, folder: Path, environment: dict[str, str], runs: int
) -> None:
    """One process makes the runs one after another, each with a seed of its own."""
    (folder / "a.txt").write_text("".join(f"The {i}th line says that {i} times {i} is {i * i}.\n\n" for i in range(400)))
    named = {"MLFLOW_TRACKING_URI": served.addresses["MLflow"].partition("/#")[0], "PREFECT_API_URL": _api(served)}
    print(f"\n| runs of {UPDATES:,} updates and 5 evaluations | Prefect, MB | MLflow, MB |\n|---|---|---|")
    print(f"| 0 | {_sizes(workspace)} |", flush=True)
    for first in range(0, runs, 25):
        until = min(first + 25, runs)
        command = [sys.executable, "-m", "benchmarks.nights", "train", str(folder / "a.txt"), str(first), str(until)]
        subprocess.run(command, env={**environment, **named}, check=True, stdout=subprocess.DEVNULL)
        time.sleep(10)  # what the servers have taken is in their databases then
        print(f"| {until} | {_sizes(workspace)} |", flush=True)


def _sizes(workspace: Workspace) -> str:
    """With what sqlite has beside each."""
    files = (workspace.prefect_home / "prefect.db", workspace.root / "mlflow" / "mlflow.db")
    sizes = [sum(part.stat().st_size for part in file.parent.glob(f"{file.name}*")) for file in files]
    return " | ".join(f"{size / 1e6:,.1f}" for size in sizes)


def train(text: Path, first: int, until: int) -> None:
    """Make these runs, in the servers that the environment names."""
    import tasks  # noqa: F401  # first: it points Prefect and MLflow at the workspace
    from flows.finetune import finetune

    for seed in range(first, until):
        finetune(_run_config("many", text, seed))


def _run_config(name: str, text: Path, seed: int = 0) -> RunConfig:
    train = {"steps": UPDATES, "batch_size": 2, "warmup_steps": 2, "seed": seed}
    return RunConfig.model_validate({"name": name, "data": {"source": str(text)}, "train": train, **SECTIONS})


def _config(name: str, text: Path, folder: Path) -> str:
    file = folder / f"{name}.json"
    file.write_text(_run_config(name, text).model_dump_json())
    return str(file)


def _gpt2flow(environment: dict[str, str], *arguments: str) -> None:
    done = subprocess.run([sys.executable, "-m", "flows.cli", *arguments], env=environment, capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stdout + done.stderr)


def _api(served: RunningDashboard) -> str:
    return f"{served.addresses['Prefect'].partition('/#')[0]}/api"


def _ask(served: RunningDashboard, path: str, body: dict[str, object] | None = None) -> Any:
    data = json.dumps(body).encode() if body is not None else None
    with urlopen(Request(f"{_api(served)}{path}", data, {"Content-Type": "application/json"}), timeout=60) as answer:
        return json.loads(answer.read())


def _wait_for(look: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        with suppress(OSError):
            if found := look():
                return found
        time.sleep(0.1)
    sys.exit("It did not happen in time.")


def _summary(seconds: list[float]) -> str:
    return f"median {statistics.median(seconds):.1f}, least {min(seconds):.1f}, most {max(seconds):.1f}"


if __name__ == "__main__":
    if sys.argv[1:2] == ["train"]:
        train(Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
    else:
        nights, runs = (*sys.argv[1:], *("5", "100")[len(sys.argv) - 1 :])
        main(int(nights), int(runs))
