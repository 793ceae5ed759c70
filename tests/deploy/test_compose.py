"""docker-compose.yaml is what Compose takes, holds no secret, and waits for what is healthy."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

PROJECT = Path(__file__).parents[2]
FILE = PROJECT / "docker-compose.yaml"
EXAMPLE = PROJECT / "deploy" / "team.env.example"
TEXT = FILE.read_text()
SERVICES: dict[str, dict[str, Any]] = yaml.safe_load(TEXT)["services"]
SECRET = re.compile(r"PASSWORD|SECRET|KEY|AUTH_STRING|CONNECTION_URL|STORE_URI|database_uri", re.IGNORECASE)


def test_it_is_what_compose_takes() -> None:
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", str(FILE)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_secret_comes_from_the_environment_file_and_none_has_a_value_of_its_own() -> None:
    assert set(SERVICES) == {"postgres", "s3", "bucket", "prefect", "mlflow", "worker"}
    for name, service in SERVICES.items():
        for variable, value in service["environment"].items():
            if SECRET.search(variable):
                assert "${" in str(value), f"{name}: {variable}"
    needed = set(re.findall(r"\$\{(\w+):\?", TEXT))
    given = set(re.findall(r"^#?(\w+)=", EXAMPLE.read_text(), re.MULTILINE))
    assert set(re.findall(r"\$\{(\w+)", TEXT)) == given
    assert {"POSTGRES_PASSWORD", "PREFECT_PASSWORD", "MLFLOW_PASSWORD", "MLFLOW_SESSION_KEY", "S3_KEY", "S3_SECRET"} == needed
    for ignored in (".gitignore", ".dockerignore"):
        assert {".env"} <= set((PROJECT / ignored).read_text().splitlines())


def test_whoever_others_need_has_a_health_check_and_is_waited_for() -> None:
    for service in SERVICES.values():
        for other, how in service.get("depends_on", {}).items():
            assert how["condition"] in ("service_healthy", "service_completed_successfully")
            assert "healthcheck" in SERVICES[other] or how["condition"] == "service_completed_successfully"
    assert set(SERVICES["worker"]["depends_on"]) == {"prefect", "mlflow"}
    assert int(SERVICES["worker"]["stop_grace_period"].removesuffix("s")) > 660  # tasks.scheduling.supervisor.STOP_LIMIT


@pytest.mark.parametrize("name", ["prefect", "mlflow"])
def test_what_others_could_reach_is_published_for_this_machine_unless_asked_and_wants_a_password(name: str) -> None:
    assert all(port.startswith("${LISTEN:-127.0.0.1}:") for port in SERVICES[name]["ports"])
    password = {"prefect": "PREFECT_SERVER_API_AUTH_STRING", "mlflow": "MLFLOW_AUTH_ADMIN_PASSWORD"}[name]
    assert password in SERVICES[name]["environment"]
    assert name == "prefect" or "basic-auth" in SERVICES[name]["command"]
    assert not any("ports" in SERVICES[other] for other in ("postgres", "s3", "worker"))


def test_no_secret_is_among_the_arguments_of_a_service() -> None:
    assert not [service for service in SERVICES.values() if "${" in str(service.get("command", ""))]
