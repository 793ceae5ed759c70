"""What is handed to Prefect's work pools, Kubernetes and systemd is what they take."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from configparser import ConfigParser
from pathlib import Path
from typing import Any

import dockerfile
import jsonschema
import kubernetes_validate
import pytest
import yaml
from tiny import tiny_run

from configs.schema import RunConfig
from tasks.servers.server_process import ServerProcess, ServerSpec, free_port, stop_all

PROJECT = Path(__file__).parents[2]
KUBERNETES = "1.34"
TEMPLATE = PROJECT / "deploy" / "kubernetes" / "base-job-template.json"


def deployments() -> list[dict[str, Any]]:
    return list(yaml.safe_load((PROJECT / "prefect.yaml").read_text())["deployments"])


def rendered(part: Any, values: dict[str, Any]) -> Any:
    """The template with its variables filled in, as Prefect does it: a whole string keeps the value's type."""
    if isinstance(part, dict):
        return {key: rendered(value, values) for key, value in part.items()}
    if isinstance(part, list):
        return [rendered(value, values) for value in part]
    if isinstance(part, str) and (whole := re.fullmatch(r"{{ (\w+) }}", part)):
        return values[whole[1]]
    return re.sub(r"{{ (\w+) }}", lambda found: str(values[found[1]]), part) if isinstance(part, str) else part


def test_the_manifests_are_what_kubernetes_takes() -> None:
    manifests = list(yaml.safe_load_all((PROJECT / "deploy" / "kubernetes" / "gpt2flow.yaml").read_text()))
    assert [manifest["kind"] for manifest in manifests] == ["Namespace", "PersistentVolumeClaim", "Deployment"]
    for manifest in manifests:
        kubernetes_validate.validate(manifest, KUBERNETES, strict=True)


def test_the_job_of_the_work_pool_is_what_kubernetes_takes_and_mounts_the_workspace() -> None:
    template = json.loads(TEMPLATE.read_text())
    jsonschema.Draft202012Validator.check_schema(template["variables"])
    defaults = {name: field.get("default") for name, field in template["variables"]["properties"].items()}
    given = {"name": "night", "command": ["python", "-m", "prefect.engine"], "labels": {}, "env": [{"name": "A", "value": "b"}]}
    job = rendered(template["job_configuration"]["job_manifest"], defaults | given)
    kubernetes_validate.validate(job, KUBERNETES, strict=True)
    claim = job["spec"]["template"]["spec"]["volumes"][0]["persistentVolumeClaim"]["claimName"]
    manifests = yaml.safe_load_all((PROJECT / "deploy" / "kubernetes" / "gpt2flow.yaml").read_text())
    assert claim in {manifest["metadata"]["name"] for manifest in manifests}


def test_the_parameters_in_prefect_yaml_are_a_config() -> None:
    assert {each["work_pool"]["name"] for each in deployments()} == {
        "gpt2flow-processes",
        "gpt2flow-docker",
        "gpt2flow-kubernetes",
    }
    for each in deployments():
        assert RunConfig.model_validate(each["parameters"]["config"]).name == "nightly"


def test_the_service_starts_up_and_waits_for_the_last_checkpoint() -> None:
    unit = ConfigParser(strict=True, interpolation=None)
    unit.optionxform = str  # type: ignore[assignment, method-assign]
    unit.read(PROJECT / "deploy" / "systemd" / "gpt2flow.service")
    assert shlex.split(unit["Service"]["ExecStart"])[-1] == "up"
    assert int(unit["Service"]["TimeoutStopSec"]) > 660  # tasks.scheduling.supervisor.STOP_LIMIT


def test_systemd_takes_the_service(tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not here; test_the_service_starts_up reads the unit without it")
    unit = (PROJECT / "deploy" / "systemd" / "gpt2flow.service").read_text()
    program = tmp_path / "gpt2flow"
    program.touch(0o755)
    (tmp_path / "gpt2flow.service").write_text(unit.replace("%h/.local/bin/gpt2flow", str(program)))
    command = ["systemd-analyze", "--user", "verify", str(tmp_path / "gpt2flow.service")]
    done = subprocess.run(
        command, env={**os.environ, "XDG_RUNTIME_DIR": str(tmp_path)}, capture_output=True, text=True, check=False
    )
    said = [line for line in done.stderr.splitlines() if "gpt2flow" in line]
    assert (done.returncode, said) == (0, []), done.stderr


def test_docker_s_own_parser_takes_the_dockerfile_and_it_runs_as_nobody_special() -> None:
    parsed = dockerfile.parse_file(str(PROJECT / "deploy" / "Dockerfile"))
    names = [command.cmd.upper() for command in parsed]
    assert names[0] == "FROM"
    assert ":" in parsed[0].value[0], "an image without a tag changes by itself"
    assert [command.value for command in parsed if command.cmd.upper() == "USER"] == [("gpt2flow",)]
    assert not any("ADD" in name for name in names)
    installed = next(command.value[0] for command in parsed if "pip install" in command.value[0])
    assert "-c constraints.txt" in installed and ".[team]" in installed
    shell = [command.value[0] for command in parsed if command.cmd.upper() == "RUN"]
    for line in shell:
        subprocess.run(["sh", "-n", "-c", line], check=True)


def test_everything_that_the_image_copies_is_there_and_no_package_is_left_out() -> None:
    lines = (PROJECT / "deploy" / "Dockerfile").read_text().splitlines()
    copied = [name for line in lines if line.startswith("COPY ") for name in line.split()[1:-1]]
    assert all((PROJECT / name).exists() for name in copied)
    assert {"configs", "gpt2core", "tasks", "flows"} <= set(copied)


@pytest.mark.slow
def test_a_real_server_takes_every_deployment_of_prefect_yaml_and_a_pool_of_processes_makes_a_night(tmp_path: Path) -> None:
    port = free_port(4700)
    assert port is not None
    environment = {**os.environ, "PREFECT_HOME": str(tmp_path), "PREFECT_API_URL": f"http://127.0.0.1:{port}/api"}
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port), "--no-ui"]
    server = ServerProcess(ServerSpec("Prefect", command, port, "/api/health", tmp_path / "server.log", environment))

    def prefect(*arguments: str) -> str:
        started = [sys.executable, "-m", "prefect", "--no-prompt", *arguments]
        done = subprocess.run(started, env=environment, cwd=PROJECT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    try:
        deadline = time.monotonic() + 300
        while not server.answers():
            assert time.monotonic() < deadline, server.last_words()
            time.sleep(0.2)
        prefect("work-pool", "create", "gpt2flow-processes", "--type", "process")
        prefect("work-pool", "create", "gpt2flow-docker", "--type", "docker")
        template = ["--base-job-template", str(TEMPLATE)]
        prefect("work-pool", "create", "gpt2flow-kubernetes", "--type", "kubernetes", *template)
        prefect("deploy", "--all")
        listed = prefect("deployment", "ls")
        assert all(each["name"] in listed for each in deployments())
        home, text = tmp_path / "workspace", tmp_path / "a.txt"
        text.write_text("".join(f"The {i}th line says that {i * i}.\n\n" for i in range(200)))
        given = [f"config={tiny_run('pooled', text).model_dump_json()}"]
        variables = {"env": {"GPT2FLOW_HOME": str(home), "GPT2FLOW_LOCKS": str(tmp_path)}}
        asked = [f"{name}={json.dumps(value)}" for name, value in variables.items()]
        prefect("deployment", "run", "nightly/on-processes", "--param", *given, "--job-variable", *asked)
        prefect("worker", "start", "--pool", "gpt2flow-processes", "--run-once")
        (night,) = (home / "nights" / "pooled").glob("*.json")
        assert json.loads(night.read_text())["run"].startswith("pooled-")
    finally:
        stop_all([server])
