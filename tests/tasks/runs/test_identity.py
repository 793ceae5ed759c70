"""Runs that may end with other weights have other ids."""

from typing import Any

import pytest

from configs.schema import RunConfig
from tasks.runs.run_folder import run_id

SIZES = {"n_ctx": 8, "n_embd": 8, "n_head": 1, "n_layer": 1}


def id_of(**sections: dict[str, Any]) -> str:
    return run_id(RunConfig.model_validate({"model": SIZES, **sections}), "store", "")


@pytest.mark.parametrize(
    ("section", "name", "value"), [("data", "mask_documents", True), ("train", "order", "random"), ("train", "seed", 1)]
)
def test_what_changes_the_weights_makes_another_run(section: str, name: str, value: object) -> None:
    assert id_of(**{section: {name: value}}) != id_of()


@pytest.mark.parametrize("sections", [{"data": {"source": "elsewhere"}}, {"evaluate": {"every": 7}}])
def test_where_the_text_lies_and_what_is_looked_at_makes_none(sections: dict[str, Any]) -> None:
    assert id_of(**sections) == id_of()
