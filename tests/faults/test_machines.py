"""A run that torchrun starts on two machines: to the bits of one process, whatever ends it on the way.

Also tests `flows.train_worker`, `tasks.processes.meeting` and `tasks.processes.pulse`.
"""

import os
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Literal

import psutil
import pytest
import torch.distributed as dist
from databases import with_databases
from runs_by_processes import STEPS, assert_same, config_file, run

from flows.train_worker import main
from tasks.processes.meeting import meet
from tasks.runs.find import all_runs
from tasks.runs.run_folder import RunFolder
from tasks.servers.server_process import free_port
from tasks.workspace.folders import Workspace

PATIENCE = 300.0  # seconds
PROJECT = Path(__file__).parents[2]
SLOWLY = """
import time
from gpt2core.training.trainer import Trainer
from flows.train_worker import main
update = Trainer._update
def slow_update(trainer):
    print(f"update {trainer.step} begins", flush=True)
    time.sleep(0.5)
    update(trainer)
Trainer._update = slow_update
main()
"""


MEET_AT = {"10.77.0.1": "10.77.0.1", "10.77.0.2": "10.77.0.1"}


class Machine:
    """What torchrun does on one of two machines; `before` is a command that the whole command is handed to."""

    def __init__(
        self, output: Path, port: int, *arguments: str, address: str = "127.0.0.1", before: tuple[str, ...] = ()
    ) -> None:
        self.output = output
        where = MEET_AT.get(address, "127.0.0.1")
        meeting = ["--rdzv-backend", "c10d", "--rdzv-endpoint", f"{where}:{port}", "--local-addr", address]
        is_host = f",is_host={address == where}" if address in MEET_AT else ""  # names are not known there
        meeting += ["--rdzv-conf", f"read_timeout={PATIENCE:.0f}{is_host}"]
        command = [sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "1", *meeting]
        with output.open("wb") as file:
            self.process = subprocess.Popen([*before, *command, *arguments], stdout=file, stderr=file, cwd=PROJECT)

    @property
    def said(self) -> str:
        """All output, in one line."""
        return " ".join(self.output.read_text().split())

    def workers(self) -> list[psutil.Process]:
        """The processes that train."""
        return list(psutil.Process(self.process.pid).children())


@pytest.fixture
def start(tmp_path: Path, prefect_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., list[Machine]]]:
    """Start both machines, each with its own options of torchrun and arguments of the run."""
    monkeypatch.setenv("PREFECT_API_URL", prefect_url)
    started: list[Machine] = []

    def begin(*each: tuple[str, ...], **places: Any) -> list[Machine]:
        port = free_port(29000 + os.getpid() % 900)
        assert port is not None
        for number, arguments in enumerate(each):
            given = {name: values[number] for name, values in places.items()}
            started.append(Machine(tmp_path / f"machine-{len(started)}.log", port, *arguments, **given))
        return started[-len(each) :]

    yield begin
    for machine in started:
        machine.process.kill()
        machine.process.wait()


def ended(machines: list[Machine]) -> list[int]:
    """The exit codes, when both have ended."""
    return [machine.process.wait(PATIENCE) for machine in machines]


def run_of(name: str) -> RunFolder:
    return next(run for run in all_runs(Workspace.current()) if run.id.startswith(f"{name}-"))


def slowly(folder: Path) -> str:
    """A worker with updates that take their time."""
    script = folder / "slowly.py"
    script.write_text(SLOWLY)
    return str(script)


def at_update(step: int, machines: list[Machine]) -> None:
    """Return when it begins."""
    deadline = time.monotonic() + PATIENCE
    while not all(f"update {step} begins" in machine.said for machine in machines):
        assert time.monotonic() < deadline
        assert all(machine.process.poll() is None for machine in machines), [machine.said for machine in machines]
        time.sleep(0.1)


@contextmanager
def other_machine(file: Path, *arguments: str, code: int = 0) -> Iterator[None]:
    """The second of two processes, which torchrun has started as it seems to them; this process is the first one."""
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    told = {"TORCHELASTIC_RUN_ID": "none", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(store.port), "WORLD_SIZE": "2"}
    told |= {"LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"}
    command = [sys.executable, "-m", "flows.train_worker", str(file), *arguments]
    process = subprocess.Popen(command, env={**os.environ, **told, "RANK": "1"}, cwd=PROJECT)
    handler = signal.getsignal(signal.SIGTERM)
    try:
        with pytest.MonkeyPatch.context() as patch:
            for name, value in {**told, "RANK": "0", "GLOO_SOCKET_IFNAME": "lo"}.items():
                patch.setenv(name, value)
            for name in ("PREFECT_API_URL", "PREFECT_UI_URL"):  # what the run sets is gone after it
                patch.setenv(name, "")
                patch.delenv(name)
            yield
        assert process.wait(PATIENCE) == code
    finally:
        signal.signal(signal.SIGTERM, handler)
        meet.cache_clear()
        process.kill()
        process.wait()


def train_worker(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """The exit code of the process that torchrun starts, in this one."""
    monkeypatch.setattr(sys, "argv", ["train_worker", *arguments])
    with pytest.raises(SystemExit) as ended, warnings.catch_warnings(action="ignore"):  # cyclopts expects none of a test
        main()
    return int(ended.value.code or 0)


def test_two_machines_make_the_bits_of_one_process(
    text: Path, tmp_path: Path, run_by_one: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = config_file("machines", text, tmp_path)
    with other_machine(file):
        assert train_worker(monkeypatch, str(file)) == 0
    assert_same(run_of("machines"), run_by_one)


def test_a_setting_that_differs_is_refused_before_anything_is_done(
    text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = config_file("machines-unlike", text, tmp_path)
    with other_machine(file, "--train.seed", "7", code=2):
        assert train_worker(monkeypatch, str(file)) == 2
    said = capsys.readouterr()
    assert (
        said.err == "gpt2flow: Process 1 of 2 is not like the first one: train.seed is 7 there and 0 here. Give all the same.\n"
    )
    assert said.out == ""


def test_what_is_not_started_by_torchrun_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train_worker(monkeypatch, "demo") == 2
    assert "without it, gpt2flow run CONFIG does the same" in capsys.readouterr().err


@pytest.mark.slow
def test_two_machines_of_torchrun_make_the_bits_of_one_process(
    text: Path, tmp_path: Path, start: Any, run_by_one: RunFolder
) -> None:
    file = config_file("machines-torchrun", text, tmp_path)
    machines = start(*[("-m", "flows.train_worker", str(file))] * 2)
    assert ended(machines) == [0, 0], [machine.said for machine in machines]
    assert sum("2, each makes 2 of an update's 4 batches" in machine.said for machine in machines) == 1
    assert_same(run_of("machines-torchrun"), run_by_one)


@pytest.mark.slow
@pytest.mark.parametrize("which", [0, 1])
def test_sigterm_on_either_machine_ends_both_with_a_checkpoint(
    which: int, text: Path, tmp_path: Path, start: Any, run_by_one: RunFolder
) -> None:
    file = config_file(f"machines-stopped-{which}", text, tmp_path)
    machines = start(*[(slowly(tmp_path), str(file))] * 2)
    at_update(3, machines)
    machines[which].process.send_signal(signal.SIGTERM)
    assert ended(machines) == [1, 1]
    said = " ".join(machine.said for machine in machines)
    assert "is saved; the same command goes on from there" in said
    assert not run_of(f"machines-stopped-{which}").checkpoint_path(STEPS).exists()
    assert_same(run(file), run_by_one)


@pytest.mark.slow
@pytest.mark.parametrize("which", [0, 1])
def test_torchrun_starts_all_again_when_one_was_killed(
    which: int, text: Path, tmp_path: Path, start: Any, run_by_one: RunFolder
) -> None:
    file = config_file(f"machines-killed-{which}", text, tmp_path, process_timeout=30.0)
    machines = start(*[("--max-restarts", "2", slowly(tmp_path), str(file))] * 2)
    at_update(5, machines)
    (worker,) = machines[which].workers()
    worker.kill()
    assert ended(machines) == [0, 0], [machine.said for machine in machines]
    assert_same(run_of(f"machines-killed-{which}"), run_by_one)


@pytest.mark.slow
def test_a_machine_that_does_not_see_the_workspace_is_told_so(text: Path, tmp_path: Path, start: Any) -> None:
    if os.getuid():
        pytest.skip("hiding the workspace from one of two machines needs root")
    file, root = config_file("machines-apart", text, tmp_path), Workspace.current().root
    hidden = ("unshare", "--mount", "sh", "-c", f'mount -t tmpfs none {root} && exec "$@"', "sh")
    machines = start(*[("-m", "flows.train_worker", str(file))] * 2, before=[(), hidden])
    assert ended(machines) == [1, 1]
    said = " ".join(machine.said for machine in machines)
    assert "Process 1 of 2 has failed:" in said
    assert "all machines of a run must see the same workspace (GPT2FLOW_HOME)" in said


@contextmanager
def two_machines() -> Iterator[list[str]]:
    """Network namespaces with one cable between them, 10.77.0.1 and 10.77.0.2."""
    names = [f"gf{os.getpid()}{end}" for end in "ab"]

    def ip(*arguments: str) -> None:
        subprocess.run(["ip", *arguments], check=True, capture_output=True)

    with ExitStack() as stack:
        for name in names:
            ip("netns", "add", name)
            stack.callback(ip, "netns", "delete", name)
        ip("link", "add", names[0], "netns", names[0], "type", "veth", "peer", "name", names[1], "netns", names[1])
        for name, address in zip(names, ("10.77.0.1", "10.77.0.2"), strict=True):
            ip("-n", name, "address", "add", f"{address}/24", "dev", name)
            for device in ("lo", name):
                ip("-n", name, "link", "set", device, "up")
        yield names


def plug(machine: str, state: Literal["up", "down"]) -> None:
    """One end of the cable into its machine, or out of it."""
    subprocess.run(["ip", "-n", machine, "link", "set", machine, state], check=True)


@pytest.mark.slow
def test_a_cut_cable_ends_the_run_with_a_sentence_and_it_goes_on_to_the_same_bits(
    text: Path, tmp_path: Path, start: Any, run_by_one: RunFolder, monkeypatch: pytest.MonkeyPatch, database_cache: Path
) -> None:
    if os.getuid():
        pytest.skip("network namespaces need root")
    for variable in ("PREFECT_API_URL", "PREFECT_HOME", "MLFLOW_TRACKING_URI"):  # no server of another namespace is reached
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("GPT2FLOW_HOME", str(tmp_path / "workspace"))
    with_databases(Workspace.current(), database_cache)
    file = config_file("machines-cut", text, tmp_path, process_timeout=20.0)
    with two_machines() as names:
        places = {"address": ["10.77.0.1", "10.77.0.2"], "before": [("ip", "netns", "exec", name) for name in names]}
        machines = start(*[(slowly(tmp_path), str(file))] * 2, **places)
        at_update(5, machines)
        workers = [process for machine in machines for process in machine.workers()]
        plug(names[1], "down")
        cut = time.monotonic()
        assert ended(machines[:1]) == [1]
        while any(process.is_running() and process.status() != psutil.STATUS_ZOMBIE for process in workers):
            assert time.monotonic() - cut < 60
            time.sleep(0.1)
        assert "Process 1 of 2 has not answered for 20 s: the run ends, and the same command goes on" in machines[0].said
        assert "The first process has not been reached for 20 s: this one ends" in machines[1].said
        plug(names[1], "up")
        assert ended(machines[1:]) == [1]  # while the cable was cut torchrun looked for its store on the other machine
        assert ended(start(*[("-m", "flows.train_worker", str(file))] * 2, **places)) == [0, 0]
    assert_same(run_of("machines-cut"), run_by_one)
