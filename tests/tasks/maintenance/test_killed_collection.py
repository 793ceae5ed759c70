"""gc that is killed at any call that changes something leaves a workspace in which all is whole, and the next gc ends it.

Also tests `tasks.registry.deletion` and `tasks.registry.artifacts`.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from databases import with_databases
from made_workspace import MadeWorkspace, being_in

from tasks.workspace.folders import Workspace

LIMIT = 1800  # seconds; a busy machine takes long to open MLflow's database so often
KILLED_EVERYWHERE = '''
import os, shutil, signal, sys
from pathlib import Path
import tasks
from forking import in_child
import mlflow
from made_workspace import being_in, copy_of, everything_in
from mlflow import MlflowClient
from mlflow.entities import ViewType
from mlflow.store.artifact.local_artifact_repo import LocalArtifactRepository
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore
from configs.retention import RetentionSettings
from gpt2core.store.token_store import open_store
from tasks.evidence.entrant import Entrant
from tasks.maintenance.collection import collect, find_leftovers
from tasks.registry.lookup import content_hash, registered_models, versions_of
from tasks.workspace.folders import Workspace

SETTINGS = RetentionSettings(keep_versions=0, older_than=0, history=1)
CHANGING = [(MlflowClient, name) for name in ("set_registered_model_tag", "delete_model_version", "delete_logged_model",
            "create_registered_model", "delete_registered_model")]
CHANGING += [(MlflowClient, "delete_run"), (SqlAlchemyStore, "_hard_delete_run")]
CHANGING += [(LocalArtifactRepository, "delete_artifacts"), (Path, "rename"), (Path, "replace"), (shutil, "rmtree")]
template, place = Workspace(Path(sys.argv[1])), Path(sys.argv[2])
CHANGING = [(owner, name) for owner, name in CHANGING if not sys.argv[3:] or name in sys.argv[3:]]

def dying_at(number):
    """Before the call of that number, and so after the one before."""
    calls = []
    for owner, name in CHANGING:
        def call(*arguments, _original=getattr(owner, name), _name=name, **options):
            calls.append(_name)
            if len(calls) == number:
                print(f"killed at call {number}: {_name}", flush=True)
                os.kill(os.getpid(), signal.SIGKILL)
            return _original(*arguments, **options)
        setattr(owner, name, call)

def state(workspace):
    """What is there and what a decision would rest on."""
    client = MlflowClient()
    versions = [version for name in registered_models(client) for version in versions_of(client, name)]
    champion = next(version for version in versions if "champion" in version.aliases)
    for version in versions:
        assert content_hash(version.folder) == version.tags["content"], version.uri
    experiments = [found.experiment_id for found in client.search_experiments()]
    told = sorted(run.info.run_id for run in client.search_runs(experiments, run_view_type=ViewType.ALL))
    learnt = Entrant("candidate", champion.uri, champion.folder, champion).learner(client).learnt_from()
    return [version.uri for version in versions], sorted(learnt), sorted(everything_in(workspace)), told

def gc(number):
    with being_in(Workspace(place / str(number))):
        dying_at(number)
        collect(SETTINGS)

def check(number):
    """After the kill all is whole and nothing is forgotten; after another gc it is as if there had been none."""
    with being_in(Workspace(place / str(number))) as workspace:
        before = state(workspace)
        collect(SETTINGS)
        after = state(workspace)
        assert after[1] == before[1]
        assert find_leftovers(SETTINGS).rows == []
    if number:
        shutil.rmtree(workspace.root)
    (place / "ends").open("a").write(repr(after) + chr(10))

def check_and_gc(number):
    """All in one process, since opening the databases is what takes long: check the last kill, and be killed."""
    check(number - 1)
    gc(number)

number, ended = 0, False
copy_of(template, place / "0")  # is collected without a kill
while not ended:
    number += 1
    copy_of(template, place / str(number))
    ended = in_child(lambda: check_and_gc(number))
assert in_child(lambda: check(number))
assert len(set((place / "ends").read_text().splitlines())) == 1
print("kills:", number - 1, flush=True)
'''


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory, database_cache: Path) -> Workspace:
    """Two versions of which one may go, with what belongs to them, and a logged model that was never registered."""
    folder = tmp_path_factory.mktemp("full")
    with being_in(with_databases(Workspace(folder / "workspace"), database_cache)) as workspace:
        made, documents = MadeWorkspace(folder / "texts"), [f"The {number}th is {number * 7}." for number in range(60)]
        stores = [made.store(documents[first : first + 20]) for first in (0, 15)]
        for number, store in enumerate(stores, 1):
            base = "models:/demo/1" if number > 1 else "scratch"
            run = made.run("demo", store, base, registered=str(number))
            made.version("demo", store, base, aliases=["champion"], run=run.id)
        made.version("demo", stores[1], "scratch", run="gone")
        made.client.delete_model_version("demo", "3")
    return workspace


def killed_everywhere(full: Workspace, place: Path, *calls: str) -> int:
    """Kill before each call of these names, of all that change something unless given; returns how many kills."""
    command = [sys.executable, "-c", KILLED_EVERYWHERE, str(full.root), str(place), *calls]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2] / "support")}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=LIMIT, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return int(done.stdout.split("kills: ")[1])


def test_a_kill_between_a_version_and_its_files_loses_nothing(full: Workspace, tmp_path: Path) -> None:
    assert killed_everywhere(full, tmp_path, "delete_artifacts") == 3


@pytest.mark.slow
def test_a_kill_at_any_call_loses_nothing(full: Workspace, tmp_path: Path) -> None:
    assert killed_everywhere(full, tmp_path) >= 15
