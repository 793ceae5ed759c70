"""A run with a secret at every place where one can be given: none is in its files, its output, or a list of processes.

With the servers of a team the same is tested in tests/faults/test_team.py.
"""

import os
import subprocess
import sys
from pathlib import Path

import yaml
from process_lists import ProcessLists
from tiny import tiny_values

SECRETS = {
    "PREFECT_SERVER_API_AUTH_STRING": "ann:secret-of-prefect",
    "MLFLOW_TRACKING_PASSWORD": "secret-of-mlflow",
    "MLFLOW_AUTH_ADMIN_PASSWORD": "secret-of-the-admin",
    "MLFLOW_FLASK_SERVER_SECRET_KEY": "secret-of-sessions",
    "AWS_SECRET_ACCESS_KEY": "secret-of-s3",
    "HF_TOKEN": "secret-of-the-hub",
    "GPT2FLOW_KEY": "secret-of-serve",
    "CHAT_HOOK": "http://127.0.0.1:9/hooks/secret-of-the-chat",
}
IN_THE_FILE = ("PREFECT_SERVER_API_AUTH_STRING", "CHAT_HOOK")


def test_a_run_shows_no_secret_anywhere(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("".join(f"The {i}th line says that {i * i}.\n\n" for i in range(200)))
    home = tmp_path / "home"
    home.mkdir()
    (home / "team.env").touch(0o600)
    (home / "team.env").write_text("".join(f"{name}={SECRETS[name]}\n" for name in IN_THE_FILE))
    alerts = {"addresses": ["env:CHAT_HOOK"], "disk_below": "900TB", "timeout": 1}
    values = tiny_values("secretive", tmp_path / "a.txt", alerts=alerts)
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(values))
    named = {name: value for name, value in SECRETS.items() if name not in IN_THE_FILE}
    environment = {**os.environ, **named, "GPT2FLOW_HOME": str(home)}
    for name in ("PREFECT_HOME", "PREFECT_API_URL", "MLFLOW_TRACKING_URI"):
        environment.pop(name, None)
    secrets = [secret.rpartition(":")[2].rpartition("/")[2] for secret in SECRETS.values()]
    with ProcessLists(secrets) as lists:
        command = [sys.executable, "-m", "flows.cli", "run", str(tmp_path / "run.yaml")]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=300)
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    assert "env:CHAT_HOOK" in said  # it was tried, and could not be reached
    held = {path: path.read_bytes() for path in home.rglob("*") if path.is_file() and path.name != "team.env"}
    assert {home / "mlflow" / "mlflow.db", home / "prefect" / "prefect.db"} <= set(held)
    shown = [(where, secret) for where, content in held.items() for secret in secrets if secret.encode() in content]
    assert shown == []
    assert not any(secret in said for secret in secrets)
    assert lists.found == set()
    assert len(lists.seen) > 3
