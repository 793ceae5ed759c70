"""The lock of a model's aliases, in a real registry: who waits, who is refused, and what becomes of a dead holder's."""

import os
import subprocess
import sys
import time

import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import RESOURCE_ALREADY_EXISTS, RESOURCE_DOES_NOT_EXIST

from configs.errors import UserError
from tasks.registry import alias_lock
from tasks.registry.alias_lock import moving_aliases
from tasks.registry.lookup import registered_models
from tasks.workspace.databases import prepare_databases
from tasks.workspace.folders import Workspace


@pytest.fixture(scope="module")
def client() -> MlflowClient:
    prepare_databases(Workspace.current().create())
    return MlflowClient()


def locks(client: MlflowClient, model: str) -> list[str]:
    return [one.name for one in client.search_registered_models() if one.name.startswith(f"lock of {model}")]


def test_the_lock_is_gone_behind_it_and_is_no_model(client: MlflowClient) -> None:
    with moving_aliases(client, "quiet", "a test", 1):
        assert locks(client, "quiet") == ["lock of quiet"]
        assert "lock of quiet" not in registered_models(client)
    assert locks(client, "quiet") == []


def test_who_comes_second_is_refused_with_who_holds_it(client: MlflowClient) -> None:
    sentence = rf"The aliases of busy are being moved by \S+@\S+ \(the first, process {os.getpid()}, since .*\): try again"
    first, second = moving_aliases(client, "busy", "the first", 1), moving_aliases(client, "busy", "the second", 0.3)
    with first, pytest.raises(UserError, match=sentence), second:
        pass
    with moving_aliases(client, "busy", "the third", 1):
        pass


def test_a_lock_that_is_given_back_while_mlflow_looks_at_it_is_asked_for_again(
    client: MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    create, refusals = client.create_registered_model, [RESOURCE_DOES_NOT_EXIST, RESOURCE_ALREADY_EXISTS]

    def contended(*arguments: object, **options: object) -> object:
        if refusals:
            raise MlflowException("as MLflow says it of a name that was taken just before", refusals.pop())
        return create(*arguments, **options)

    monkeypatch.setattr(client, "create_registered_model", contended)
    with moving_aliases(client, "contended", "a test", 1):
        assert locks(client, "contended") == ["lock of contended"]
    assert not refusals


def test_an_error_inside_frees_it(client: MlflowClient) -> None:
    with pytest.raises(ValueError), moving_aliases(client, "failing", "a test", 1):
        raise ValueError
    assert locks(client, "failing") == []


HOLD = """
import time
import tasks
from mlflow import MlflowClient
from tasks.registry.alias_lock import moving_aliases
with moving_aliases(MlflowClient(), "killed", "never ending", 1):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def killed_holder(client: MlflowClient) -> str:
    """A model whose lock a process held when it was killed."""
    with subprocess.Popen([sys.executable, "-c", HOLD], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        process.kill()
    return "killed"


def test_the_lock_of_a_killed_process_on_this_machine_is_broken_at_once(client: MlflowClient, killed_holder: str) -> None:
    begun = time.monotonic()
    with moving_aliases(client, killed_holder, "after the kill", 20):
        assert time.monotonic() - begun < alias_lock.LEASE
        assert "lock of killed" in locks(client, killed_holder)


def test_of_two_who_break_a_dead_lock_one_holds_it(client: MlflowClient) -> None:
    tags = {
        "gpt2flow.lock": alias_lock.now(),
        "holder": "dead",
        "who": "x@y",
        "what": "z",
        "place": alias_lock._place(),
        "process": "1 gone",
    }
    client.create_registered_model("lock of twice", tags=tags)
    alias_lock._break(client, "lock of twice", "dead")
    with moving_aliases(client, "twice", "the first breaker", 1):
        alias_lock._break(client, "lock of twice", "dead")  # the second one has read the dead lock before, and comes late
        holder = client.get_registered_model("lock of twice").tags["what"]
        assert holder == "the first breaker"


def test_a_holder_elsewhere_lives_as_long_as_its_beat_moves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(alias_lock, "LEASE", 0.2)
    watch = alias_lock._Watch()
    held = {"place": "another machine", "holder": "h", "beat": "1", "process": "7 1.0"}
    assert not watch.is_dead(held)
    time.sleep(0.3)
    assert not watch.is_dead({**held, "beat": "2"})
    time.sleep(0.3)
    assert watch.is_dead({**held, "beat": "2"})
