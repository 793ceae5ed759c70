"""Registering beside others who do the same or remove what they find: one version of one content, and it carries the alias."""

import threading

import pytest
from mlflow import MlflowClient

from tasks.registry.alias_lock import moving_aliases
from tasks.registry.deletion import forget_version
from tasks.registry.lookup import find_version, versions_of
from tasks.registry.registration import register
from tasks.tracking.mlflow_mirror import create_experiment
from tasks.workspace.databases import prepare_databases
from tasks.workspace.folders import Workspace

TAGS = {"content": "0" * 32, "run": "registering-1", "store": "none", "base": "scratch"}


class Run:
    """A run that logs its model and registers it."""

    def __init__(self, client: MlflowClient, model: str) -> None:
        self._client, self._model = client, model
        found = client.get_experiment_by_name("registering")
        self._experiment = found.experiment_id if found else create_experiment(client, "registering")
        self._id = client.create_run(self._experiment).info.run_id
        self.logged = 0

    def register(self) -> str:
        return register(self._client, self._model, "candidate", self._id, TAGS, self.log, 20)

    def log(self) -> str:
        self.logged += 1
        return str(self._client.create_logged_model(self._experiment, "model", self._id).model_uri)


class SlowRun(Run):
    """While its model is logged, another run registers the same."""

    def log(self) -> str:
        assert Run(self._client, self._model).register() == "1"
        return super().log()


@pytest.fixture(scope="module")
def client() -> MlflowClient:
    prepare_databases(Workspace.current().create())
    return MlflowClient()


def test_what_two_runs_register_at_once_is_one_version(client: MlflowClient) -> None:
    assert SlowRun(client, "registered-twice").register() == "1"
    assert [version.aliases for version in versions_of(client, "registered-twice")] == [("candidate",)]
    again = Run(client, "registered-twice")
    assert again.register() == "1"
    assert again.logged == 0


def test_a_version_that_is_removed_just_then_is_registered_anew(client: MlflowClient) -> None:
    model, run = "removed-meanwhile", Run(client, "removed-meanwhile")
    run.register()
    client.delete_registered_model_alias(model, "candidate")
    again = threading.Thread(target=run.register)
    with moving_aliases(client, model, "removing a version, as gc does", 5):
        again.start()
        again.join(1)
        forget_version(client, find_version(client, model, "1"))
    again.join()
    assert run.logged == 2
    assert find_version(client, model, "candidate").number == "2"
