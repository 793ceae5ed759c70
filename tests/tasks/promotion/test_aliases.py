"""A promotion or rollback that is killed at any call to MLflow leaves a champion, and the next command ends what was begun."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from mlflow_server import mlflow_server

from tasks.workspace.databases import prepare_databases
from tasks.workspace.folders import Workspace

LIMIT = 1800  # seconds; a busy machine takes long to open MLflow's database some forty times
SUPPORT = {"PYTHONPATH": str(Path(__file__).parents[2] / "support")}
KILLED_EVERYWHERE = '''
import os, signal, sys
import tasks
from forking import in_child
from mlflow import MlflowClient
from tasks.promotion.aliases import finish_interrupted
from tasks.promotion.history import broken_links
from tasks.promotion.ledger import Decision, Ledger
from tasks.registry.alias_lock import moving_aliases, now, who
from tasks.promotion.record import record_and_move
from tasks.registry.lookup import Aliases, aliases_of

CHANGING = ("create_run", "log_artifact", "set_tag", "set_registered_model_alias", "delete_registered_model_alias",
            "set_terminated", "create_registered_model", "delete_registered_model")
verdict = sys.argv[1]
CHANGING = sys.argv[2:] or CHANGING
before, after = {
    "promoted": (Aliases("1", None, "2"), Aliases("2", "1", None)),
    "rolled back": (Aliases("2", "1", None), Aliases("1", "2", None)),
}[verdict]

def dying_at(number, when):
    calls = []
    for name in CHANGING:
        original = getattr(MlflowClient, name)
        def call(*arguments, _original=original, _name=name, **options):
            calls.append(_name)
            if len(calls) == number:
                print(f"killed {when} call {number}: {_name}", flush=True)
            if len(calls) == number and when == "before":
                os.kill(os.getpid(), signal.SIGKILL)
            result = _original(*arguments, **options)
            if len(calls) == number:
                os.kill(os.getpid(), signal.SIGKILL)
            return result
        setattr(MlflowClient, name, call)

def prepare(model):
    client = MlflowClient()
    client.create_registered_model(model)
    for _ in range(2):
        run = client.create_run("0").info  # a server takes no version from elsewhere
        client.create_model_version(model, run.artifact_uri, run.run_id)
    for alias in ("champion", "previous", "candidate"):
        if getattr(before, alias):
            client.set_registered_model_alias(model, alias, getattr(before, alias))

def act(model, number, when):
    client = MlflowClient()
    dying_at(number, when)
    with moving_aliases(client, model, "a test", 5):
        decision = Decision(model=model, verdict=verdict, why="a test", when=now(), who=who(), before=before, after=after)
        record_and_move(client, Ledger(client, model), decision)

def check(model):
    client, ledger = MlflowClient(), None
    found = Aliases.of(aliases_of(client, model))
    assert found.champion in ("1", "2"), f"no champion: {found}"
    ledger = Ledger(client, model)
    if found != before:
        assert ledger.entries(), f"an alias has moved before the record was there: {found}"
    with moving_aliases(client, model, "the next command", 5):
        finish_interrupted(client, ledger)
    entries, ended = ledger.entries(), Aliases.of(aliases_of(client, model))
    assert ended == (after if entries else before), f"{ended} with {len(entries)} decisions"
    assert all(entry.applied and ledger.record(entry) for entry in entries)
    assert not broken_links([(entry.decision, entry.fingerprint) for entry in entries])
    assert f"lock of {model}" not in [one.name for one in client.search_registered_models()]

def kill_and_go_on(earlier, model, number, when):
    """All in one process, since opening the database is what takes long: check the last kill, prepare, and be killed."""
    if earlier:
        check(earlier)
    prepare(model)
    act(model, number, when)

number, ended, model = 0, False, None
while not ended:
    number += 1
    for when in ("before", "after"):
        earlier, model = model, f"{verdict.replace(' ', '-')}-{number}-{when}"
        ended = in_child(lambda: kill_and_go_on(earlier, model, number, when))
assert in_child(lambda: check(model))
print("kills:", 2 * (number - 1), flush=True)
'''


def killed_everywhere(verdict: str, *calls: str, **environment: str) -> int:
    """Kill before and after each call of these names, of all that change something unless given; returns how many kills."""
    command = [sys.executable, "-c", KILLED_EVERYWHERE, verdict, *calls]
    done = subprocess.run(
        command, env={**os.environ, **SUPPORT, **environment}, capture_output=True, text=True, timeout=LIMIT, check=False
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    return int(done.stdout.split("kills: ")[1])


@pytest.fixture
def database(tmp_path: Path) -> dict[str, str]:
    """The environment of a workspace whose MLflow database is there."""
    workspace = Workspace(tmp_path)
    database = {"GPT2FLOW_HOME": str(tmp_path), "MLFLOW_TRACKING_URI": workspace.mlflow_database}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in database.items():
            patch.setenv(name, value)
        patch.setenv("PREFECT_API_URL", "http://elsewhere")  # so that MLflow's database alone is made
        prepare_databases(workspace.create())
    return database


def test_a_kill_at_an_alias_leaves_a_champion(database: dict[str, str]) -> None:
    assert killed_everywhere("promoted", "set_registered_model_alias", **database) == 4


@pytest.mark.slow
@pytest.mark.parametrize("verdict", ["promoted", "rolled back"])
def test_a_kill_at_any_call_leaves_a_champion(verdict: str, database: dict[str, str]) -> None:
    assert killed_everywhere(verdict, **database) >= 18


@pytest.mark.slow
@pytest.mark.parametrize("verdict", ["promoted", "rolled back"])
def test_so_it_is_with_a_server(verdict: str, tmp_path: Path) -> None:
    with mlflow_server(
        f"sqlite:///{tmp_path / 'db'}", tmp_path, "--artifacts-destination", str(tmp_path / "artifacts")
    ) as address:
        kills = killed_everywhere(verdict, GPT2FLOW_HOME=str(tmp_path), MLFLOW_TRACKING_URI=address)
    assert kills >= 18
