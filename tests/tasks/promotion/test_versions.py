"""Versions listed, compared, deleted and put back, with models that really lie in the registry."""

from typing import Any

import pytest
from mlflow import MlflowClient

from configs.errors import UserError
from tasks.evidence.entrant import config_of, rival_of_first
from tasks.promotion.rollback import roll_back
from tasks.promotion.versions import compare_versions, damaged_aliases, delete_version, list_all, list_versions
from tasks.registry.lookup import Aliases, aliases_of, find_reference, find_version, lineage


def test_a_rollback_goes_back_and_forward_again_and_is_recorded(foundry: Any, model_name: str, tried_here: None) -> None:
    client = MlflowClient()
    first, second = foundry.against(model_name, foundry.good, foundry.noised(foundry.good, 0.1, 1))
    with pytest.raises(UserError, match="has no previous champion to go back to"):
        roll_back(model_name)
    client.set_registered_model_alias(model_name, "previous", second)
    assert roll_back(model_name, "worse").verdict == "rolled back"
    assert Aliases.of(aliases_of(client, model_name)) == Aliases(second, first, second)
    assert roll_back(model_name).number == 2
    assert Aliases.of(aliases_of(client, model_name)).champion == first


def test_a_rollback_to_a_version_that_does_not_work_changes_nothing(foundry: Any, model_name: str, tried_here: None) -> None:
    client = MlflowClient()
    first, second = foundry.against(model_name, foundry.good, foundry.noised(foundry.good, 0.1, 1))
    client.set_registered_model_alias(model_name, "previous", second)
    (find_version(client, model_name, second).folder / "model.safetensors").write_bytes(b"broken")
    with pytest.raises(UserError, match=f"Version {second} does not work any more .*: nothing was changed"):
        roll_back(model_name)
    assert Aliases.of(aliases_of(client, model_name)).champion == first
    broken = {(name, alias): problem for name, alias, problem in damaged_aliases() if name == model_name}
    assert broken[model_name, "champion"] is None
    assert broken[model_name, "previous"]


def test_versions_are_listed_with_aliases_size_and_lineage(foundry: Any, model_name: str) -> None:
    foundry.register(model_name, foundry.good, alias="champion")
    foundry.register(model_name, foundry.noised(foundry.good, 0.1, 1), model={"base": f"models:/{model_name}/1"})
    second, first = list_versions(model_name)
    assert (first.version.number, first.version.aliases, first.lineage) == ("1", ("champion",), ["scratch"])
    assert second.lineage == [f"models:/{model_name}/1", "scratch"]
    assert (first.bytes or 0) > 10_000
    assert [version.uri for version in lineage(MlflowClient(), second.version)] == [f"models:/{model_name}/1"]
    assert {row.name: row.versions for row in list_all()}[model_name] == 2
    rival, role = rival_of_first(MlflowClient(), second.version)
    assert (role, rival.reference) == ("base", f"models:/{model_name}/1")


def test_two_versions_are_compared_by_what_differs(foundry: Any, model_name: str) -> None:
    foundry.register(model_name, foundry.good)
    foundry.register(model_name, foundry.noised(foundry.good, 0.1, 1), train={"steps": 77})
    found = compare_versions(f"{model_name}/1", f"{model_name}@candidate")
    assert found.settings == [("train.steps", "1000", "77")]
    assert found.text == []
    assert config_of(found.second).train.steps == 77


@pytest.mark.parametrize("reference", ["nothing", "a/b/c", "models:/", "@champion"])
def test_what_names_no_version_is_said(reference: str) -> None:
    with pytest.raises(UserError, match="names no version: write NAME/VERSION or NAME@ALIAS"):
        find_reference(MlflowClient(), reference)


def test_unknown_versions_and_aliases_are_said_with_those_there_are(foundry: Any, model_name: str) -> None:
    foundry.register(model_name, foundry.good)
    with pytest.raises(UserError, match=r"has no version or alias '9'\. Versions: 1@candidate\."):
        find_reference(MlflowClient(), f"{model_name}/9")


def test_only_what_nothing_needs_is_deleted(foundry: Any, model_name: str) -> None:
    client = MlflowClient()
    for number in (1, 2, 3):
        base = {"model": {"base": f"models:/{model_name}/1"}} if number == 3 else {}
        foundry.register(model_name, foundry.noised(foundry.good, 0.1, number), **base)
    with pytest.raises(UserError, match="it is candidate"):
        delete_version(f"{model_name}/3")
    with pytest.raises(UserError, match=rf"models:/{model_name}/3 \(candidate\) was trained from it"):
        delete_version(f"{model_name}/1")
    files = find_version(client, model_name, "2").folder
    assert delete_version(f"{model_name}/2") == f"models:/{model_name}/2"
    assert not files.exists()
    assert [row.version.number for row in list_versions(model_name)] == ["3", "1"]


def test_a_lineage_still_knows_versions_that_were_deleted(foundry: Any, model_name: str) -> None:
    client = MlflowClient()
    for number in (1, 2, 3):
        base = {"model": {"base": f"models:/{model_name}/{number - 1}"}} if number > 1 else {}
        foundry.register(model_name, foundry.noised(foundry.good, 0.1, number), **base)
    first, _, third = (find_version(client, model_name, number) for number in "123")
    delete_version(first.uri)
    assert [version.uri for version in lineage(client, third)] == [f"models:/{model_name}/2", first.uri]
    assert list(lineage(client, third))[-1].tags["store"] == first.tags["store"]
    assert list_versions(model_name)[0].lineage == [f"models:/{model_name}/2", first.uri, "scratch"]
