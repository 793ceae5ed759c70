"""Runs that may end with other weights have other ids; the same run keeps its id when settings are added to the schema."""

import json
from pathlib import Path
from typing import Annotated, Any

import pytest
from tiny import SMALLEST

from configs.influence import Influence, settings_by_name
from configs.schema import RunConfig, TrainSettings
from tasks.runs.identity import KNOWN_TO_0_1, asked_ids, differences, run_id, run_id_of_0_1


class LaterTrainSettings(TrainSettings):
    """A version that has one more setting."""

    sharpness: float = 0.5
    """What it does has an influence on the weights."""
    colour: Annotated[str, Influence.NONE] = "red"
    """What it does has none."""


class LaterConfig(RunConfig):
    """As that version reads it."""

    train: LaterTrainSettings = LaterTrainSettings()


def config_of(kind: type[RunConfig] = RunConfig, **sections: dict[str, Any]) -> RunConfig:
    return kind.model_validate({"model": SMALLEST, **sections})


def id_of(kind: type[RunConfig] = RunConfig, **sections: dict[str, Any]) -> str:
    return run_id(config_of(kind, **sections), "store", "")


@pytest.mark.parametrize(
    ("section", "name", "value"),
    [("data", "mask_documents", True), ("train", "order", "random"), ("train", "seed", 1), ("model", "n_layer", 2)],
)
def test_what_changes_the_weights_makes_another_run(section: str, name: str, value: object) -> None:
    base = {"model": SMALLEST, section: SMALLEST if section == "model" else {}}
    assert id_of(**{**base, section: {**base[section], name: value}}) != id_of()


@pytest.mark.parametrize(
    "sections",
    [
        {"data": {"source": "elsewhere", "workers": 2}},
        {"evaluate": {"every": 7}},
        {"registry": {"enabled": False}},
        {"train": {"device": "cpu", "checkpoint_every": 3, "memory_limit": "3GB", "tokens_per_step": 99}},
        {"tokenizer": {"vocab_size": 300}},
    ],
)
def test_where_the_text_lies_and_what_is_looked_at_makes_none(sections: dict[str, Any]) -> None:
    assert id_of(**sections) == id_of()


def test_every_setting_that_is_part_of_the_id_is_so_on_purpose() -> None:
    train = [f"train.{name}.{inner}" for name in ("lora", "early_stopping") for inner in sorted(KNOWN_TO_0_1[name])]
    train += [f"train.{name}" for name, inner in KNOWN_TO_0_1.items() if inner is True]
    model = ["model.n_ctx", "model.n_embd", "model.n_head", "model.n_layer", "model.dropout"]
    assert sorted(settings_by_name(config_of())) == sorted([*train, "train.reduce", *model, "data.mask_documents"])


def test_a_setting_that_is_new_changes_no_id_until_it_is_used() -> None:
    assert id_of(LaterConfig) == id_of()
    assert id_of(LaterConfig, train={"sharpness": 0.5, "colour": "blue"}) == id_of()
    assert id_of(LaterConfig, train={"sharpness": 0.75}) != id_of()
    asked = {"train": {"epochs": 2.0}}
    assert asked_ids(config_of(LaterConfig, **asked), "store", "") == asked_ids(config_of(**asked), "store", "")


def test_other_wishes_have_other_ids_of_what_was_asked() -> None:
    ids = {asked_ids(config_of(train=train), "store", "") for train in ({}, {"epochs": 2.0}, {"tokens_per_step": 99})}
    assert len({each for pair in ids for each in pair}) == 6


def test_the_id_of_version_0_1_is_known_whatever_settings_came_since(golden: Path) -> None:
    (written,) = (golden / "run-0.1.0" / "runs").glob("*/run.json")
    known = json.loads(written.read_text())
    for kind in (RunConfig, LaterConfig):
        assert run_id_of_0_1(kind.model_validate(known["config"]), known["store"], "") == known["id"]


def test_what_differs_from_a_recorded_config_is_named_and_what_it_did_not_know_had_its_default() -> None:
    recorded = config_of(train={"seed": 3}, data={"source": "elsewhere"}).model_dump()
    later = config_of(LaterConfig, train={"seed": 4, "lora": {}})
    assert differences(later, recorded) == ["train.seed is 4, was 3"]
    sharper = config_of(LaterConfig, train={"seed": 3, "sharpness": 1.0})
    assert differences(sharper, recorded) == ["train.sharpness is 1.0, was 0.5"]
