"""A team's set-up: PostgreSQL for Prefect and MLflow, files on S3, passwords everywhere; a killed night, and no secret seen.

Also tests `tasks.runs.fetched_models` and `tasks.tracking.away`.
"""

import base64
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest
from compose import Compose
from process_lists import ProcessLists
from team_servers import BUCKET, REGION, S3, PostgreSQL, postgresql, s3

from tasks.servers.server_process import free_port

pytestmark = pytest.mark.team

STEPS = 300
PATIENCE = 900.0  # seconds
SECRETS = {
    "prefect": "database-secret-of-prefect",
    "mlflow": "database-secret-of-mlflow",
    "PREFECT_SERVER_API_AUTH_STRING": "team:page-secret-of-prefect",
    "MLFLOW_AUTH_ADMIN_PASSWORD": "page-secret-of-mlflow",
    "MLFLOW_FLASK_SERVER_SECRET_KEY": "session-secret-of-mlflow",
    "ALERT_HOOK": "http://127.0.0.1:9/hooks/address-secret-of-alerts",
    "HF_TOKEN": "hf_token-secret-of-the-hub",
    "GPT2FLOW_KEY": "key-secret-of-serve",
}


def hidden(secret: str) -> str:
    """What must not be seen of it: the part after the user's name."""
    return secret.rpartition(":")[2].rpartition("/")[2]


@pytest.fixture(scope="module")
def databases() -> Iterator[PostgreSQL]:
    with postgresql({name: SECRETS[name] for name in ("prefect", "mlflow")}) as server:
        yield server


@pytest.fixture(scope="module")
def files() -> Iterator[S3]:
    with s3() as server:
        yield server


@pytest.fixture(scope="module")
def lists(files: S3) -> Iterator[ProcessLists]:
    with ProcessLists([*map(hidden, SECRETS.values()), files.secret]) as watching:
        yield watching


@pytest.fixture(scope="module")
def team(
    up_class: Any,
    tmp_path_factory: pytest.TempPathFactory,
    databases: PostgreSQL,
    files: S3,
    lists: ProcessLists,
) -> Iterator[Any]:
    """`gpt2flow up` whose workspace's team.env names everything."""
    up = up_class(tmp_path_factory.mktemp("team"))
    for unused in [*up.workspace.root.rglob("*.db"), up.workspace.root / "databases.json"]:
        unused.unlink(missing_ok=True)
    settings = {
        "PREFECT_SERVER_DATABASE_CONNECTION_URL": f"postgresql+asyncpg{databases.address('prefect')}",
        "MLFLOW_TRACKING_URI": f"postgresql{databases.address('mlflow')}",
        "MLFLOW_DEFAULT_ARTIFACT_ROOT": f"s3://{BUCKET}/mlflow",
        "MLFLOW_S3_ENDPOINT_URL": files.endpoint,
        "AWS_ACCESS_KEY_ID": files.key,
        "AWS_SECRET_ACCESS_KEY": files.secret,
        "AWS_DEFAULT_REGION": REGION,
        **{name: secret for name, secret in SECRETS.items() if name.isupper()},
    }
    up.workspace.create()
    file = up.workspace.root / "team.env"
    file.touch(0o600)
    file.write_text("".join(f"{name}='{value}'\n" for name, value in settings.items()))
    up.headers["Authorization"] = basic(SECRETS["PREFECT_SERVER_API_AUTH_STRING"])
    up.said = []
    up.start()
    yield up
    for lock in up.alive():
        os.kill(lock.read().process, signal.SIGKILL)
    up.stop()


def basic(name_and_password: str) -> str:
    return f"Basic {base64.b64encode(name_and_password.encode()).decode()}"


def write_documents(file: Path, texts: list[str]) -> None:
    file.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))


def night(team: Any, wait_until: Any, name: str) -> dict[str, Any]:
    """Trigger a deployment and wait for its end."""
    before = len(team.ended(name))
    team.said.append(team.gpt2flow("trigger", name))
    wait_until(lambda: len(team.ended(name)) > before, PATIENCE)
    return dict(team.ended(name)[-1])


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = tmp_path_factory.mktemp("texts")
    write_documents(folder / "a.jsonl", [f"The {i}th line says that {i} times {i} is {i * i}." for i in range(400)])
    return folder


def test_three_nights_one_of_them_killed_end_with_champion_versions_files_on_s3_and_the_same_bits(
    team: Any, databases: PostgreSQL, files: S3, texts: Path, wait_until: Any, final_weights: Any
) -> None:
    sections = {
        "train": {"steps": STEPS, "checkpoint_every": 60},
        "alerts": {"addresses": ["env:ALERT_HOOK"], "timeout": 2},
    }
    team.said.append(team.gpt2flow("deploy", team.config("killed", texts, **sections, registry={"enabled": True})))
    team.said.append(team.gpt2flow("deploy", team.config("undisturbed", texts, **sections)))
    team.said.append(team.gpt2flow("trigger", "killed"))
    wait_until(lambda: team.step("killed") > 100, PATIENCE)
    team.kill("up", "worker", "Prefect", "MLflow", "training")
    wait_until(lambda: team.run_of("killed").state() == "stopped")
    team.start()
    wait_until(lambda: team.ended("killed"), PATIENCE)
    (first,) = team.ended("killed")
    assert (first["state_name"], first["run_count"]) == ("Completed", 2)
    killed = team.run_of("killed")
    assert night(team, wait_until, "undisturbed")["run_count"] == 1
    assert final_weights(killed) == final_weights(team.run_of("undisturbed"))
    for number in (2, 3):
        write_documents(texts / f"{number}.jsonl", [f"Night {number}, line {i}: {number * i} things." for i in range(100)])
        assert night(team, wait_until, "killed")["state_name"] == "Completed"

    assert "undisturbed" not in (would_go := team.gpt2flow("gc", "--dry_run")), would_go
    assert databases.ask("mlflow", "SELECT count(*) FROM model_versions WHERE name = 'killed'") == [(3,)]
    aliases = dict(databases.ask("mlflow", "SELECT alias, version FROM registered_model_aliases WHERE name = 'killed'"))
    assert "champion" in aliases
    steps = f"SELECT step FROM metrics WHERE key = 'loss' AND run_uuid = '{killed.read('run')['mlflow_run_id']}' ORDER BY step"
    assert databases.ask("mlflow", steps) == [(step,) for step in range(1, STEPS + 1)]
    ended = "SELECT DISTINCT state_name FROM flow_run WHERE run_count > 0 AND state_type <> 'RUNNING'"
    assert databases.ask("prefect", ended) == [("Completed",)]
    locations = databases.ask("mlflow", "SELECT storage_location FROM model_versions WHERE name = 'killed'")
    stored = files.files()
    for (location,) in locations:
        assert f"{location.removeprefix(f's3://{BUCKET}/')}/artifacts/model/model.safetensors" in stored
    assert [path.name for path in team.workspace.root.rglob("*.db")] == ["users.db"]
    assert not any(file.is_file() for file in team.workspace.mlflow_artifacts.rglob("*"))


def remove_alias(team: Any, alias: str) -> None:
    """As in MLflow's page."""
    address = f"http://127.0.0.1:{team.ports[0]}/api/2.0/mlflow/registered-models/alias"
    headers = {
        "Authorization": basic(f"admin:{SECRETS['MLFLOW_AUTH_ADMIN_PASSWORD']}"),
        "Content-Type": "application/json",
    }
    body = json.dumps({"name": "killed", "alias": alias}).encode()
    urlopen(Request(address, body, headers, method="DELETE"), timeout=30).close()


def test_gc_removes_from_s3_what_no_version_needs_and_the_champion_still_loads(
    team: Any, databases: PostgreSQL, files: S3
) -> None:
    """After the three nights."""
    aliases = dict(databases.ask("mlflow", "SELECT alias, version FROM registered_model_aliases WHERE name = 'killed'"))
    for alias in aliases.keys() - {"champion"}:
        remove_alias(team, alias)
    query = "SELECT version, storage_location FROM model_versions WHERE name = 'killed' AND current_stage <> 'Deleted_Internal'"
    before = {version: location.removeprefix(f"s3://{BUCKET}/") for version, location in databases.ask("mlflow", query)}
    champion = before[aliases["champion"]]
    stored = files.files()
    team.said.append(team.gpt2flow("gc", "--keep_versions", "0", "--older_than", "0s"))
    assert [version for version, _ in databases.ask("mlflow", query)] == [aliases["champion"]]
    left = files.files()
    gone = [name for name in stored if name.startswith(tuple(f"{place}/" for place in before.values() if place != champion))]
    assert sum(name.endswith("model.safetensors") for name in gone) == 2
    assert left == {name: content for name, content in stored.items() if name not in gone}
    shutil.rmtree(team.workspace.root / "fetched-models", ignore_errors=True)
    team.said.append(team.gpt2flow("sample", "--model", "models:/killed@champion", "The ", "--max_new_tokens", "4"))


def ask(url: str, header: str | None = None) -> int:
    """The status of an answer."""
    request = Request(url, headers={"Authorization": header} if header else {})
    try:
        with urlopen(request, timeout=30) as answer:
            return int(answer.status)
    except HTTPError as error:
        return error.code


def test_both_pages_let_in_nobody_without_the_password(team: Any) -> None:
    mlflow, prefect = (f"http://127.0.0.1:{port}" for port in team.ports)
    right = basic(f"admin:{SECRETS['MLFLOW_AUTH_ADMIN_PASSWORD']}")
    experiments = f"{mlflow}/api/2.0/mlflow/experiments/search?max_results=1"
    assert [ask(experiments), ask(experiments, basic("admin:wrong")), ask(experiments, right)] == [401, 401, 200]
    version = f"{prefect}/api/admin/version"
    assert [ask(version), ask(version, basic("team:wrong")), ask(version, team.headers["Authorization"])] == [401, 401, 200]


def test_a_workspace_elsewhere_uses_these_servers_with_name_and_password(
    team: Any, files: S3, texts: Path, tmp_path: Path, wait_until: Any
) -> None:
    mlflow, prefect = (f"http://127.0.0.1:{port}" for port in team.ports)
    named = {
        "MLFLOW_TRACKING_URI": mlflow,
        "MLFLOW_TRACKING_USERNAME": "admin",
        "MLFLOW_TRACKING_PASSWORD": SECRETS["MLFLOW_AUTH_ADMIN_PASSWORD"],
        "PREFECT_API_URL": f"{prefect}/api",
        "PREFECT_API_AUTH_STRING": SECRETS["PREFECT_SERVER_API_AUTH_STRING"],
        "MLFLOW_S3_ENDPOINT_URL": files.endpoint,
        "AWS_ACCESS_KEY_ID": files.key,
        "AWS_SECRET_ACCESS_KEY": files.secret,
    }
    environment = {**team.environment, "GPT2FLOW_HOME": str(tmp_path / "elsewhere"), **named}
    config = team.config("elsewhere", texts, registry={"enabled": True})

    def gpt2flow(*arguments: str, **other: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "flows.cli", *arguments]
        return subprocess.run(command, env={**environment, **other}, capture_output=True, text=True, check=False, timeout=300)

    wrong = gpt2flow("run", config, PREFECT_API_AUTH_STRING="team:wrong")
    assert wrong.returncode == 2
    assert "wants a password, another one than PREFECT_API_AUTH_STRING holds" in wrong.stderr
    assert "Traceback" not in wrong.stderr
    done = gpt2flow("run", config)
    assert done.returncode == 0, done.stdout + done.stderr
    sampled = gpt2flow("sample", "--model", "models:/elsewhere@candidate", "The ", "--max_new_tokens", "4")
    assert sampled.returncode == 0, sampled.stdout + sampled.stderr
    assert not list((tmp_path / "elsewhere").rglob("*.db"))
    assert len(list((tmp_path / "elsewhere" / "fetched-models").iterdir())) == 1
    team.said += [done.stdout, done.stderr, wrong.stderr, sampled.stdout, sampled.stderr]


def test_no_secret_is_in_any_file_output_database_or_list_of_processes(
    team: Any, databases: PostgreSQL, files: S3, lists: ProcessLists
) -> None:
    team.stop()
    held = {f"file {path}": path.read_bytes() for path in team.folder.rglob("*") if path.is_file() and path.name != "team.env"}
    held |= {f"object {name}": content for name, content in files.files().items()}
    held |= {f"database {name}": databases.dump(name).encode() for name in ("prefect", "mlflow")}
    held |= {f"output {number}": said.encode() for number, said in enumerate(team.said)}
    assert {"database prefect", "database mlflow", f"file {team.workspace.root / 'worker.log'}"} <= set(held)
    secrets = [*map(hidden, SECRETS.values()), files.secret]
    assert [(where, secret) for where, content in held.items() for secret in secrets if secret.encode() in content] == []
    assert len(lists.seen) > 20
    assert lists.found == set()


def test_the_services_of_docker_compose_work_together_and_the_worker_needs_neither_database_nor_s3(
    team: Any, databases: PostgreSQL, files: S3, texts: Path, tmp_path: Path, wait_until: Any
) -> None:
    """After the test before, which has stopped the servers of the same databases."""
    ports = {name: str(free_port(first)) for name, first in (("prefect", 4900), ("mlflow", 5900))}
    users = tmp_path / "users.ini"
    given = {
        "POSTGRES_PASSWORD": "not used: each database has its own here",
        "PREFECT_PASSWORD": "team:compose-secret-of-prefect",
        "MLFLOW_PASSWORD": "compose-secret-of-mlflow",
        "MLFLOW_SESSION_KEY": "compose-secret-of-sessions",
        "S3_KEY": files.key,
        "S3_SECRET": files.secret,
    }
    places = {
        r"://gpt2flow:[^@]*@postgres:5432/prefect": databases.address("prefect"),
        r"://gpt2flow:[^@]*@postgres:5432/mlflow": databases.address("mlflow"),
        r"http://s3:7070": files.endpoint,
        r"http://(prefect|127\.0\.0\.1):4200": f"http://127.0.0.1:{ports['prefect']}",
        r"http://(mlflow|127\.0\.0\.1):5000": f"http://127.0.0.1:{ports['mlflow']}",
        r"^4200$": ports["prefect"],
        r"^5000$": ports["mlflow"],
        r"^0\.0\.0\.0$": "127.0.0.1",
        r"^/mlflow-users\.ini$": str(users),
    }
    compose = Compose(given, places)
    users.write_text(compose.config("mlflow-users"))
    bucket = compose.start("bucket", tmp_path)
    assert bucket.wait(PATIENCE) == 0, (tmp_path / "bucket.log").read_text()
    started = [compose.start(name, tmp_path, PREFECT_HOME=str(tmp_path / "prefect")) for name in ("prefect", "mlflow")]
    own = {"GPT2FLOW_HOME": str(tmp_path / "workspace"), "GPT2FLOW_LOCKS": str(tmp_path / "locks")}
    environment = {**compose.environment("worker"), **own}
    try:
        wait_until(lambda: all(map(compose.is_healthy, ("prefect", "mlflow"))), PATIENCE)
        started.append(compose.start("worker", tmp_path, **own))
        config = team.config("composed", texts, registry={"enabled": True})
        for arguments in (("deploy", config), ("trigger", "composed")):
            command = [sys.executable, "-m", "flows.cli", *arguments]
            subprocess.run(command, env=environment, check=True, capture_output=True, timeout=PATIENCE)
        night = tmp_path / "workspace" / "nights" / "composed"
        wait_until(lambda: any(json.loads(file.read_text())["ended"] for file in night.glob("*.json")), PATIENCE)
    finally:
        for process in reversed(started):
            process.terminate()
            process.wait(PATIENCE)
    assert databases.ask("mlflow", "SELECT count(*) FROM model_versions WHERE name = 'composed'") == [(1,)]
    assert not [name for name in environment if name.startswith("AWS_") or "DATABASE" in name]
    assert any(name.endswith("model.safetensors") for name in files.files("gpt2flow"))
