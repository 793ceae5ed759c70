"""A base that an alias names is pinned, and a run that was begun keeps it."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from mlflow import MlflowClient

from configs.errors import UserError
from configs.schema import RunConfig
from tasks.runs.pinned_base import find_base, pin_base, stay_with_base, with_base
from tasks.runs.run_folder import RunFolder
from tasks.workspace.databases import prepare_databases
from tasks.workspace.folders import Workspace

STORE: Any = SimpleNamespace(hash="s" * 32)


def config_of(name: str, base: str, **train: Any) -> RunConfig:
    return RunConfig.model_validate({"name": name, "model": {"base": base}, "train": {"steps": 5, **train}})


@pytest.fixture(scope="module")
def client() -> MlflowClient:
    prepare_databases(Workspace.current().create())
    client = MlflowClient()
    client.create_registered_model("pinned")
    for _ in range(2):
        client.create_model_version("pinned", "file:///nowhere")
    client.set_registered_model_alias("pinned", "champion", "2")
    return client


def begun(config: RunConfig, name: str) -> RunFolder:
    folder = RunFolder(Workspace.current().runs / name)
    Path(folder.path).mkdir(parents=True)
    folder.write("run", {"id": name, "store": STORE.hash, "config": config.model_dump()})
    return folder


def test_an_alias_becomes_its_version(client: MlflowClient) -> None:
    assert pin_base(config_of("x", "models:/pinned@champion")).model.base == "models:/pinned/2"
    for base in ("models:/pinned/1", "models:/pinned@nothing", "models:/unknown@champion", "hub:a/b"):
        assert pin_base(config_of("x", base)).model.base == base


def test_an_unfinished_run_keeps_the_base_it_was_begun_with(client: MlflowClient) -> None:
    asked = config_of("keeps", "models:/pinned@champion")
    now = pin_base(asked)
    folder = begun(with_base(asked, "models:/pinned/1"), "keeps-1")
    assert stay_with_base(asked, now, STORE).model.base == "models:/pinned/1"
    assert stay_with_base(now, now, STORE) == now  # a version was asked for
    assert stay_with_base(asked, pin_base(config_of("keeps", "models:/pinned@champion", seed=3)), STORE).model.base[-1] == "2"
    other: Any = SimpleNamespace(hash="t" * 32)
    assert stay_with_base(asked, now, other) == now
    folder.write("result", {"run": "keeps-1"})
    assert stay_with_base(asked, now, STORE) == now


def test_a_base_that_is_gone_is_told_with_the_finished_run_that_was_made_from_it(client: MlflowClient) -> None:
    config = config_of("ended", "models:/pinned/7")
    folder = begun(config, "ended-1")
    with pytest.raises(UserError, match=r"^models:/pinned/7 is not in the registry .* see gpt2flow runs\.$"):
        find_base(config)
    folder.write("result", {"run": "ended-1"})
    with pytest.raises(UserError, match=r"^models:/pinned/7 is not in the registry .* Run ended-1 .* is finished"):
        find_base(config)
    with pytest.raises(UserError, match=r"see gpt2flow runs\.$"):
        find_base(config_of("ended", "models:/pinned/7", seed=4))
