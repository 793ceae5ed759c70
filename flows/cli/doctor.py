"""`gpt2flow doctor`: what is installed, what the machine offers, what is missing and what to do about it."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from http.client import HTTPException
from importlib.metadata import PackageNotFoundError, distribution, requires, version
from pathlib import Path
from typing import Literal

import psutil
from packaging.requirements import Requirement
from rich.console import Console
from rich.table import Table

from configs.addresses import shown
from configs.errors import UserError
from tasks.servers.running import running_dashboard
from tasks.servers.server_process import is_free
from tasks.workspace.elsewhere import mlflow_database, prefect_database, require_answer
from tasks.workspace.folders import Workspace

OLDEST_PYTHON = (3, 11)
GIGABYTE = 1e9
ANSWER_LIMIT = 1.0  # seconds a server that the environment names has to answer
DASHBOARD_PORTS = {"MLflow": 5000, "Prefect": 4200}
COMPILERS = ("g++", "clang++", "c++")
BF16_FLAGS = ("avx512_bf16", "amx_bf16", "bf16")
MARKS = {"fine": "[green]✓[/]", "note": "[yellow]![/]", "missing": "[red]✗[/]"}


@dataclass(frozen=True)
class Finding:
    """One line of the report. 'missing' is what keeps gpt2flow from working; a 'note' is only worth knowing."""

    item: str
    value: str
    verdict: Literal["fine", "note", "missing"] = "fine"
    remedy: str = ""


def examine() -> Iterator[Finding]:
    """Look at this machine, one finding after the other; takes about three seconds, most of it to load PyTorch.

    The first time there are some more, to compile the kernels.
    """
    workspace = Workspace.current()
    yield _python()
    yield from _libraries()
    yield from _extras()
    yield _processor()
    yield _memory()
    yield from _accelerator()
    yield from _kernels()
    yield _compiler()
    yield from _workspace(workspace)
    yield from _ports(workspace)
    yield from _servers()
    yield from _databases()
    yield from _aliased_versions(workspace)


def print_findings(findings: Iterable[Finding]) -> bool:
    """Print findings as a table; False if something necessary is missing."""
    console = Console(highlight=False)
    console.print(f"gpt2flow {version('gpt2flow')}: looking at this machine ...")
    table = Table("", "item", "value", "what to do", box=None, padding=(0, 2, 0, 0))
    missing = []
    for finding in findings:
        table.add_row(MARKS[finding.verdict], finding.item, finding.value, finding.remedy)
        if finding.verdict == "missing":
            missing.append(finding.item)
    console.print(table)
    console.print(f"[red]Missing: {', '.join(missing)}.[/]" if missing else "[green]Everything that is necessary is there.[/]")
    return not missing


def _python() -> Finding:
    value = f"{platform.python_version()} ({sys.executable})"
    if sys.version_info < OLDEST_PYTHON:
        return Finding("Python", value, "missing", "install Python 3.11 or later and set up again")
    return Finding("Python", value)


def _libraries() -> Iterator[Finding]:
    """Libraries that gpt2flow cannot do without, against the ranges in its own metadata."""
    for requirement in _requirements():
        if requirement.marker is not None and not requirement.marker.evaluate():
            continue
        found = _installed(requirement.name)
        if found is None:
            yield Finding(requirement.name, "not installed", "missing", _install(str(requirement)))
        elif not requirement.specifier.contains(found, prereleases=True):
            yield Finding(requirement.name, f"{found}, needed {requirement.specifier}", "missing", _install(str(requirement)))
        else:
            yield Finding(requirement.name, found)


def _extras() -> Iterator[Finding]:
    """Optional parts that are not installed."""
    for extra in distribution("gpt2flow").metadata.get_all("Provides-Extra") or []:
        wanted = [r for r in _requirements() if r.marker is not None and r.marker.evaluate({"extra": extra})]
        absent = [requirement.name for requirement in wanted if _installed(requirement.name) is None]
        if absent:
            yield Finding(f"extra '{extra}'", f"without {', '.join(absent)}", "note", _install(f"gpt2flow[{extra}]"))


def _requirements() -> list[Requirement]:
    return [Requirement(line) for line in requires("gpt2flow") or []]


def _installed(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _install(what: str) -> str:
    return f"{sys.executable} -m pip install '{what}'"


def _processor() -> Finding:
    name, has_bf16 = _processor_name_and_bf16()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return Finding("processor", f"{name}, {cores} cores, {'bf16 in hardware' if has_bf16 else 'no bf16 in hardware'}")


def _processor_name_and_bf16() -> tuple[str, bool]:
    """What Linux or macOS tell about the processor, and whether it multiplies bfloat16 itself."""
    if platform.system() == "Darwin":
        return _sysctl("machdep.cpu.brand_string"), _sysctl("hw.optional.arm.FEAT_BF16") == "1"
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    facts = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    flags = (facts.get("flags") or facts.get("Features") or "").split()
    return facts.get("model name", platform.machine()), any(flag in BF16_FLAGS for flag in flags)


def _sysctl(name: str) -> str:
    return subprocess.run(["sysctl", "-n", name], capture_output=True, text=True, check=False).stdout.strip()


def _memory() -> Finding:
    from gpt2core.machine.memory import free_bytes, group_limits

    free, total = free_bytes(), min([psutil.virtual_memory().total, *(limit for limit, _ in group_limits())])
    value = f"{free / GIGABYTE:.1f} of {total / GIGABYTE:.1f} GB available"
    if free < 2 * GIGABYTE:
        return Finding("memory", value, "note", "close other programs, or train a smaller model")
    return Finding("memory", value)


def _accelerator() -> Iterator[Finding]:
    """The GPU that PyTorch can use. Imports PyTorch, and only if it is there."""
    if _installed("torch") is None:
        return
    try:
        from gpt2core.machine.devices import accelerator_name
    except (ImportError, OSError) as error:  # a library that the installed build of PyTorch needs
        yield Finding(
            "accelerator",
            f"PyTorch does not load: {error}",
            "missing",
            f"{sys.executable} -m pip install --force-reinstall torch",
        )
        return
    if name := accelerator_name():
        yield Finding("accelerator", name)
    elif shutil.which("nvidia-smi"):
        yield Finding("accelerator", "an NVIDIA driver that this PyTorch does not use", "note", "install PyTorch's CUDA build")
    else:
        yield Finding("accelerator", "none: training runs on the processor")


def _kernels() -> Iterator[Finding]:
    """What computes on the processor, in training and in generation. Compiles the kernels where that was not done before."""
    if _installed("torch") is None:
        return
    try:
        from gpt2core.kernels.report import describe_kernels
    except (ImportError, OSError):  # `_accelerator` has said that PyTorch does not load
        return
    try:
        for use, value, remedy in describe_kernels():
            yield Finding(use, value, "note" if remedy else "fine", remedy)
    except UserError as error:
        yield Finding("kernels", str(error), "missing", "unset GPT2FLOW_KERNELS")


def _compiler() -> Finding:
    if compiler := next(filter(None, map(shutil.which, COMPILERS)), None):
        return Finding("C++ compiler", compiler)
    return Finding("C++ compiler", "none", "note", "install g++ or clang (torch.compile needs it)")


def _workspace(workspace: Workspace) -> Iterator[Finding]:
    """Whether state can be kept where it should be."""
    folder = next(path for path in (workspace.root, *workspace.root.parents) if path.exists())
    try:
        with tempfile.TemporaryFile(dir=folder):
            yield Finding("workspace", str(workspace.root))
    except OSError as error:
        yield Finding(
            "workspace", f"{workspace.root}: {error.strerror}", "missing", "set GPT2FLOW_HOME to a folder that you own"
        )
        return
    free = shutil.disk_usage(folder).free
    value = f"{free / GIGABYTE:.1f} GB free"
    if free < GIGABYTE / 2:
        yield Finding("disk", value, "missing", "free some space, or set GPT2FLOW_HOME to another disk")
    elif free < 10 * GIGABYTE:
        yield Finding("disk", value, "note", "enough for small models; checkpoints of GPT-2 124M take 1.5 GB each")
    else:
        yield Finding("disk", value)


def _ports(workspace: Workspace) -> Iterator[Finding]:
    """Whether `gpt2flow dashboard` gets the addresses that people know."""
    if dashboard := running_dashboard(workspace):
        yield Finding("dashboard", "running: " + ", ".join(filter(None, dashboard.addresses.values())))
        return
    for name, port in DASHBOARD_PORTS.items():
        if is_free(port):
            yield Finding(f"port of {name}", f"{port} is free")
        else:
            yield Finding(f"port of {name}", f"{port} is taken", "note", "none: the dashboard will take the next free one")


def _aliased_versions(workspace: Workspace) -> Iterator[Finding]:
    """Whether every version that an alias names still loads. Imports MLflow and PyTorch, and only if there is a registry."""
    server = os.environ.get("MLFLOW_TRACKING_URI", "")
    if server == workspace.mlflow_database and not (workspace.root / "mlflow" / "mlflow.db").is_file():
        return
    if server.startswith("http") and _does_not_answer(server.rstrip("/") + "/health"):
        return  # which is said already
    from tasks.promotion.versions import damaged_aliases

    for name, alias, problem in damaged_aliases():
        if problem:
            yield Finding(
                f"models:/{name}@{alias}", problem, "missing", f"gpt2flow rollback {name}, or register another version"
            )
        else:
            yield Finding(f"models:/{name}@{alias}", "loads")


def _servers() -> Iterator[Finding]:
    """Servers that the environment names must answer, or runs would fail."""
    for variable in ("MLFLOW_TRACKING_URI", "PREFECT_API_URL"):
        address = os.environ.get(variable, "")
        if not address.startswith("http"):
            continue
        if problem := _does_not_answer(address.rstrip("/") + "/health"):
            yield Finding(variable, f"{address}: {problem}", "missing", f"start that server, or unset {variable}")
        else:
            yield Finding(variable, f"{address} answers")


def _databases() -> Iterator[Finding]:
    """Databases that the environment names must answer too."""
    for name, address in (("Prefect", prefect_database()), ("MLflow", mlflow_database())):
        if address is None:
            continue
        try:
            require_answer(address)
        except OSError as error:
            yield Finding(f"database of {name}", f"{shown(address)}: {error}", "missing", "start it, or put its address right")
        else:
            yield Finding(f"database of {name}", f"{shown(address)} answers")


def _does_not_answer(url: str) -> str | None:
    """Why a server does not answer; None if it does."""
    try:
        with urllib.request.urlopen(url, timeout=ANSWER_LIMIT):
            return None
    except (OSError, ValueError, HTTPException) as error:
        reason = getattr(error, "reason", error)
        return str(getattr(reason, "strerror", None) or reason)
