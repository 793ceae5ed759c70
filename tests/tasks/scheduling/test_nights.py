"""What a night goes on from, what is nothing new, and what the gate says, with a real registry."""

from pathlib import Path

import pytest
from mlflow import MlflowClient
from tiny import SMALLEST

import tasks  # noqa: F401  # first: it points MLflow at the tests' workspace
from configs.schema import RunConfig
from gpt2core.evaluation.held_out import Evaluation
from gpt2core.text.sources import SourceFile
from tasks.finetuning.result import RunResult
from tasks.scheduling.nights import all_nights, begin_night, end_night
from tasks.workspace.databases import prepare_databases
from tasks.workspace.folders import Workspace


@pytest.fixture(scope="module")
def registry() -> MlflowClient:
    prepare_databases(Workspace.current().create())
    return MlflowClient()


def config_of(name: str, **train: object) -> RunConfig:
    return RunConfig.model_validate({"name": name, "model": SMALLEST, "train": {"steps": 5, **train}})


def files_of(*texts: str) -> list[SourceFile]:
    return [SourceFile(source=text, location=f"/{text}", n_bytes=1, sha256=text, stamp="") for text in texts]


def result_of(model: str, version: str | None, before: float, after: float) -> RunResult:
    first, last = Evaluation(before, 1.0, 1.0, 9), Evaluation(after, 1.0, 1.0, 9)
    run = f"{model}-00000000"
    return RunResult(run, "", 5, 1, 1, 1, 300, 9, first, last, 5, "", "", "", model, "candidate", version)


def register(registry: MlflowClient, name: str, tmp_path: Path) -> str:
    if not registry.search_registered_models(f"name = '{name}'"):
        registry.create_registered_model(name)
    return str(registry.create_model_version(name, str(tmp_path)).version)


def test_the_same_text_is_nothing_new_after_the_nights_end_and_goes_on_before_it(registry: MlflowClient) -> None:
    config, files = config_of("same"), files_of("a", "b")
    night = begin_night.fn(config, files)
    assert (night.base, night.tokenizer, night.ended) == ("scratch", "train", "")
    assert begin_night.fn(config, files) == night
    ended = end_night(night, result_of("same", "1", 2.0, 1.0), None)
    assert begin_night.fn(config, files_of("b", "a")) == ended  # files that were only renamed or moved
    assert not begin_night.fn(config, files_of("a", "b", "c")).ended
    assert {each.text: bool(each.ended) for each in all_nights("same")}[night.text]


def test_settings_that_decide_about_the_weights_make_a_night_new_and_others_do_not(registry: MlflowClient) -> None:
    files = files_of("a")
    texts = {begin_night.fn(config, files).text for config in (config_of("new"), config_of("new", checkpoint_every=7))}
    assert len(texts) == 1
    assert begin_night.fn(config_of("new", steps=6), files).text not in texts


def test_a_night_goes_on_from_the_champion_that_there_was_when_it_began(registry: MlflowClient, tmp_path: Path) -> None:
    config, files = config_of("champion"), files_of("a")
    for version in (register(registry, "champion", tmp_path) for _ in range(2)):
        registry.set_registered_model_alias("champion", "champion", version)
        night = begin_night.fn(config, files)
        assert night.base == "models:/champion/1"
    own = night.config(config)
    assert (own.model.base, own.tokenizer.source) == ("models:/champion/1", "base")
    assert begin_night.fn(config, files_of("a", "b")).base == "models:/champion/2"
