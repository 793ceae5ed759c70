"""The doctor: what it says is what other means of looking say, and what is missing is named with its remedy.

Also tests `gpt2core.kernels.report`.
"""

import os
import shutil
import socket
import subprocess
import sys
import time
from contextlib import closing
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import psutil
import pytest
import torch

from flows.cli import doctor
from flows.cli.doctor import Finding, examine, print_findings

ROOT_IGNORES_MODES = os.geteuid() == 0
ATTEMPTS = 3
"""The quickest counts, since the other tests compute beside this one."""


def findings() -> dict[str, Finding]:
    return {finding.item: finding for finding in examine()}


def test_a_machine_that_passes_these_tests_lacks_nothing() -> None:
    assert [finding for finding in findings().values() if finding.verdict == "missing"] == []


def test_it_reports_what_is_installed_here() -> None:
    found = findings()
    assert found["torch"].value == torch.__version__
    assert found["Python"].value == f"{sys.version.split()[0]} ({sys.executable})"
    for name in ("prefect", "mlflow", "pandera", "pyarrow"):
        assert found[name] == Finding(name, version(name))


def test_memory_and_disk_are_those_of_the_machine() -> None:
    found = findings()
    assert f"of {psutil.virtual_memory().total / 1e9:.1f} GB" in found["memory"].value
    free = float(found["disk"].value.split()[0])
    assert free == pytest.approx(shutil.disk_usage(os.environ["GPT2FLOW_HOME"]).free / 1e9, abs=1.0)


def test_it_starts_to_answer_within_a_second_and_is_done_soon(tmp_path: Path) -> None:
    waited = []
    for _ in range(ATTEMPTS):
        started = time.monotonic()
        command = [sys.executable, "-m", "flows.cli", "doctor"]
        environment = {**os.environ, "GPT2FLOW_HOME": str(tmp_path / "new")}
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
            assert process.stdout
            first = process.stdout.readline()
            waited.append(time.monotonic() - started)
            rest, _ = process.communicate(timeout=60)
        assert first == f"gpt2flow {version('gpt2flow')}: looking at this machine ...\n"
        assert "Everything that is necessary is there." in rest
        assert process.returncode == 0
        assert not (tmp_path / "new").exists()
        if waited[-1] < 1.0:
            break
    assert min(waited) < 1.0


def install(folder: Path, name: str, its_version: str, *requirements: str) -> None:
    """What an installed distribution leaves for importlib.metadata to find."""
    lines = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {its_version}", "Provides-Extra: hub"]
    metadata = folder / f"{name}-{its_version}.dist-info" / "METADATA"
    metadata.parent.mkdir()
    metadata.write_text("\n".join(lines + [f"Requires-Dist: {requirement}" for requirement in requirements]))


@pytest.mark.parametrize("found", ["2.9.0", "4.0"])
def test_a_library_out_of_range_is_missing(found: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, "mlflow", found)
    monkeypatch.syspath_prepend(tmp_path)
    remedy = f"{sys.executable} -m pip install 'mlflow<4,>=3.17'"
    assert findings()["mlflow"] == Finding("mlflow", f"{found}, needed <4,>=3.17", "missing", remedy)


def test_a_library_that_is_absent_is_missing_and_an_optional_one_a_note(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(
        tmp_path, "gpt2flow", "9.9", "absent-library>=2", "absent-client; extra == 'hub'", "absent-elsewhere; os_name == 'vms'"
    )
    monkeypatch.syspath_prepend(tmp_path)
    found = findings()
    assert found["absent-library"].verdict == "missing"
    assert found["absent-library"].remedy == f"{sys.executable} -m pip install 'absent-library>=2'"
    assert found["extra 'hub'"].verdict == "note"
    assert found["extra 'hub'"].value == "without absent-client"
    assert found["extra 'hub'"].remedy == f"{sys.executable} -m pip install 'gpt2flow[hub]'"
    assert "absent-elsewhere" not in found


def test_a_workspace_that_cannot_be_written_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GPT2FLOW_HOME", "/proc/gpt2flow" if ROOT_IGNORES_MODES else str(tmp_path))
    tmp_path.chmod(0o500)
    finding = findings()["workspace"]
    assert finding.verdict == "missing"
    assert finding.remedy == "set GPT2FLOW_HOME to a folder that you own"


def test_a_server_that_the_environment_names_must_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")
    finding = findings()["PREFECT_API_URL"]
    assert finding.value == "http://127.0.0.1:9/api: Connection refused"
    assert finding.remedy == "start that server, or unset PREFECT_API_URL"


def test_a_database_that_the_environment_names_must_answer_and_its_password_is_not_shown(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("PREFECT_API_URL", raising=False)  # where a server is used, the database is that server's
    monkeypatch.setenv("PREFECT_SERVER_DATABASE_CONNECTION_URL", "postgresql+asyncpg://ann:s3cret@127.0.0.1:9/prefect")
    finding = findings()["database of Prefect"]
    assert finding.verdict == "missing"
    assert finding.value.startswith("postgresql+asyncpg://ann:***@127.0.0.1:9/prefect: nothing answers")


def test_a_taken_port_of_the_dashboard_is_a_note(monkeypatch: pytest.MonkeyPatch) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        port = taken.getsockname()[1]
        monkeypatch.setitem(doctor.DASHBOARD_PORTS, "MLflow", port)
        finding = findings()["port of MLflow"]
    assert (finding.verdict, finding.value) == ("note", f"{port} is taken")


def test_the_level_of_the_kernels_is_named_and_a_wrong_one_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GPT2FLOW_KERNELS", "none")
    found = findings()
    for use in ("training", "generation"):
        assert found[f"kernels, {use}"].value.startswith("none") and found[f"kernels, {use}"].verdict == "fine"
    monkeypatch.setenv("GPT2FLOW_KERNELS", "fast")
    assert (findings()["kernels"].verdict, findings()["kernels"].remedy) == ("missing", "unset GPT2FLOW_KERNELS")


def test_the_verdict_is_false_only_if_something_is_missing(capsys: pytest.CaptureFixture[str]) -> None:
    fine = Finding("disk", "12 GB free")
    assert print_findings([fine, replace(fine, verdict="note")])
    assert not print_findings([fine, Finding("torch", "not installed", "missing", "pip install torch")])
    assert "Missing: torch." in capsys.readouterr().out
