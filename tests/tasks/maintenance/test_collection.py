"""What nothing needs goes and everything else stays, in workspaces made by hand and at random, wherever a kill strikes.

Also tests `tasks.maintenance.leftover`, `tasks.maintenance.runs_in_use`, `tasks.maintenance.run_leftovers`,
`tasks.maintenance.store_leftovers`, `tasks.maintenance.registry_in_use`, `tasks.maintenance.registry_leftovers`,
`tasks.maintenance.old_records` and `tasks.evidence.learnt_text`.
"""

import os
import random
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest
from cyclopts import CycloptsError
from databases import with_databases
from made_workspace import MadeWorkspace, being_in, everything_in
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from tiny import tiny_run

from configs.errors import UserError
from configs.promotion import PromotionSettings
from configs.retention import RetentionSettings
from flows.cli.main import app
from gpt2core.machine.lock import locked
from gpt2core.store.token_store import open_store
from tasks.evidence.deciding_text import NoTextError, freeze_text
from tasks.evidence.entrant import Entrant
from tasks.maintenance.collection import Leftovers, collect, collect_after_night, find_leftovers
from tasks.registry.lookup import Version, content_hash, registered_models, versions_of
from tasks.runs.flow_run_locks import FlowRunLock, Record
from tasks.runs.models import best_checkpoint
from tasks.runs.run_folder import RunFolder
from tasks.workspace.folders import Workspace

ALL_AGES = RetentionSettings(keep_versions=1, older_than=0)
DOCUMENTS = [f"The {number}th day has the number {number * number} and no other." for number in range(80)]


@pytest.fixture
def made(database_cache: Path, tmp_path: Path) -> Iterator[MadeWorkspace]:
    """A new workspace that is the current one."""
    with being_in(with_databases(Workspace(tmp_path / "workspace"), database_cache)):
        yield MadeWorkspace(tmp_path / "texts")


def names(found: Leftovers) -> list[str]:
    return sorted(f"{row.kind}: {row.name}" for row in found.rows)


def all_versions() -> list[Version]:
    client = MlflowClient()
    return [version for name in registered_models(client) for version in versions_of(client, name)]


def nights(made: MadeWorkspace, windows: list[range], champions: int) -> list[RunFolder]:
    """A night a window of the documents, each from the version before on; the last `champions` of them carry aliases."""
    runs = []
    for number, window in enumerate(windows, 1):
        store, base = made.store([DOCUMENTS[at] for at in window]), f"models:/demo/{number - 1}" if number > 1 else "scratch"
        runs.append(made.run("demo", store, base, registered=str(number)))
        aliases = ["champion", "previous", "candidate"][: max(0, champions - len(windows) + number)]
        made.version("demo", store, base, aliases=aliases[-1:], run=runs[-1].id)
    return runs


def test_what_no_alias_no_run_and_no_lineage_needs_goes_and_the_next_time_there_is_nothing(made: MadeWorkspace) -> None:
    runs = nights(made, [range(10 + 5 * night) for night in range(5)], champions=1)
    stores = [run.record.store for run in runs]
    before = everything_in(made.workspace)
    found = find_leftovers(ALL_AGES)
    assert everything_in(made.workspace) == before
    expected = [f"version: models:/demo/{number}" for number in (1, 2, 3)] + [
        line for run in runs[:4] for line in (f"checkpoints: run {run.id}", f"token store: {run.record.store}")
    ]
    expected.remove(f"token store: {stores[3]}")  # of the version without alias that stays
    assert names(found) == sorted(expected)
    assert found.bytes == sum(row.bytes for row in found.rows) > 100_000
    assert names(collect(ALL_AGES)) == names(found)
    gone = sum(map(len, before.values())) - sum(map(len, everything_in(made.workspace).values()))
    assert abs(gone - found.bytes) < 500
    assert [version.number for version in all_versions()] == ["4", "5"]
    assert find_leftovers(ALL_AGES).rows == []
    assert not made.workspace.trash.exists()


def test_the_verb_shows_first_and_removes_then(made: MadeWorkspace, capsys: pytest.CaptureFixture[str]) -> None:
    nights(made, [range(10), range(12), range(14)], champions=1)
    made.run("stopped", made.store(DOCUMENTS[:10]), state="stopped")
    options = ["--keep_versions", "0", "--older_than", "0s"]
    before = everything_in(made.workspace)
    app(["gc", "--dry-run", *options], exit_on_error=False, result_action="return_value")
    shown = capsys.readouterr().out
    assert "models:/demo/2" in shown and "Nothing was removed: this was a dry run." in shown
    assert "1 unfinished run stays, with" in shown
    assert everything_in(made.workspace) == before
    app(["gc", *options], exit_on_error=False, result_action="return_value")
    done = capsys.readouterr().out
    total = next(line for line in shown.splitlines() if " in all: " in line)
    assert total in done and f"Removed: {total.split(' in all: ')[1]}." in done
    app(["gc", *options], exit_on_error=False, result_action="return_value")
    assert "There is nothing that nothing needs." in capsys.readouterr().out
    with pytest.raises(CycloptsError, match="give a duration such as 90s, 30min, 6h or 1d"):
        app(["gc", "--older_than", "soon"], exit_on_error=False, print_error=False)


def test_what_is_young_stays(made: MadeWorkspace) -> None:
    nights(made, [range(10), range(12), range(14)], champions=1)
    assert [row for row in find_leftovers(RetentionSettings(keep_versions=0)).rows if row.kind != "checkpoints"] == []


def test_what_ancestors_have_learnt_stays_known_when_version_and_store_are_gone(made: MadeWorkspace) -> None:
    nights(made, [range(0, 20), range(15, 35), range(15, 40), range(35, 60)], champions=1)
    champion = all_versions()[-1]
    before = learner(champion).learnt_from()
    collect(RetentionSettings(keep_versions=0, older_than=0))
    assert [version.number for version in all_versions()] == ["4"]
    assert learner(champion).learnt_from() == before
    assert len(before) > len(learner(champion).hashes("train"))
    assert len(list(made.workspace.learnt.iterdir())) == 2  # the third night has all that the second one had
    (damaged, *_) = made.workspace.learnt.iterdir()
    damaged.write_bytes(damaged.read_bytes()[:-9])
    with pytest.raises(UserError, match="is damaged, and nobody can say what its model has learnt from"):
        learner(champion).learnt_from()


def learner(version: Version) -> object:
    return Entrant("candidate", version.uri, version.folder, version).learner(MlflowClient())


def test_a_night_ends_with_gc_of_its_own_name_and_does_not_fail_by_it(
    made: MadeWorkspace, capsys: pytest.CaptureFixture[str]
) -> None:
    nights(made, [range(10), range(12)], champions=1)
    made.version("other", made.store(DOCUMENTS[:10]))
    config = tiny_run("demo", gc={"keep_versions": 0, "older_than": 0})
    with locked(made.workspace.root / "maintenance.lock"):
        collect_after_night.fn(config)
    assert "A backup, restore or gc of" in capsys.readouterr().out
    collect_after_night.fn(config)
    assert "2 things that nothing needs are gone" in capsys.readouterr().out  # version and checkpoints of the first night
    assert [version.uri for version in all_versions()] == ["models:/demo/2", "models:/other/1"]


def test_months_of_nights_take_no_more_than_the_text_grows(made: MadeWorkspace) -> None:
    counts = []
    for number in range(1, 7):
        store, base = made.store(DOCUMENTS[: 20 + number]), f"models:/demo/{number - 1}" if number > 1 else "scratch"
        run = made.run("demo", store, base, registered=str(number))
        made.version("demo", store, base, aliases=["champion"], run=run.id)
        collect(ALL_AGES)
        counts.append(sum(path.suffix in (".safetensors", ".parquet") for path in made.workspace.root.rglob("*")))
    assert len(all_versions()) == 2
    assert counts[2:] == [counts[1]] * 4


def test_what_a_person_has_pinned_named_or_never_registered_stays(made: MadeWorkspace) -> None:
    stores = [made.store(DOCUMENTS[:count]) for count in (10, 12, 14)]
    pinned = made.run("a", stores[0], pinned=True, registered="1")
    only_copy = made.run("b", stores[1])
    start = made.run("c", stores[1], registered="1")
    begun = made.run("d", stores[2], state="stopped", origin=start.checkpoint_path(4))
    later = made.run("e", stores[2], str(only_copy.path), state="failed", steps=())
    for name in "abc":
        made.run(name, stores[2], registered="9")
    before = everything_in(made.workspace)
    assert names(collect(ALL_AGES)) == [f"token store: {stores[1]}"]
    assert {path for path in before.keys() - everything_in(made.workspace) if not path.startswith("stores/")} == set()
    later.write("result", {"version": "3", "model": "e"})
    assert names(collect(ALL_AGES)) == [f"checkpoints: run {only_copy.id}"]
    assert best_checkpoint(only_copy) == only_copy.checkpoint_path(8)
    assert find_leftovers(ALL_AGES).unfinished[0].folder == begun
    given_up = names(collect(ALL_AGES.model_copy(update={"abandoned_after": 60})))
    assert f"checkpoints: run {begun.id}" in given_up
    assert not any(pinned.id in name for name in given_up)
    with pytest.raises(UserError, match="has no checkpoint any more: use what it registered, models:/c/1"):
        best_checkpoint(start)


def test_what_others_have_in_the_registry_stays(made: MadeWorkspace) -> None:
    store = made.store(DOCUMENTS[:10])
    for _ in range(4):
        made.version("demo", store)
    client, versions = MlflowClient(), all_versions()
    client.create_registered_model("by-hand")
    client.create_model_version("by-hand", f"models:/{versions[0].logged_model}")
    client.copy_model_version(versions[1].uri, "copied")
    elsewhere = client.create_run("0", tags={"gpt2flow.key": "k"}, run_name="on-another-machine")
    client.log_param(elsewhere.info.run_id, "model.base", versions[2].uri)
    found = collect(RetentionSettings(keep_versions=0, older_than=0))
    assert [row.name for row in found.rows if row.kind == "version"] == ["models:/copied/1", "models:/demo/1", "models:/demo/4"]
    for version in all_versions():
        assert content_hash(version.folder)
    assert [version.uri for version in all_versions()] == ["models:/by-hand/1", "models:/demo/2", "models:/demo/3"]


def test_what_was_deleted_in_mlflow_takes_no_space_any_more(made: MadeWorkspace) -> None:
    store, client = made.store(DOCUMENTS[:10]), MlflowClient()
    run = made.run("demo", store, registered="1")
    for _ in range(3):
        made.version("demo", store, aliases=["champion"])
    first, second, third = all_versions()
    client.delete_model_version("demo", first.number)
    client.delete_model_version("demo", second.number)
    client.delete_logged_model(second.logged_model)
    client.delete_run(run.record.mlflow_run_id)
    found = names(collect(ALL_AGES))
    gone = [f"logged model {first.logged_model}", f"logged model {second.logged_model}", f"run {run.id}"]
    assert [name for name in found if "MLflow" in name] == sorted(f"MLflow artifacts: {name}" for name in gone)
    kept = list(made.workspace.mlflow_artifacts.rglob("*.safetensors"))
    assert [file.parents[2].parent.name for file in kept] == [third.logged_model]
    assert find_leftovers(ALL_AGES).rows == []


def test_what_tells_of_a_run_goes_when_that_is_asked_for_and_no_version_comes_from_it(made: MadeWorkspace) -> None:
    client, runs = MlflowClient(), nights(made, [range(10), range(12), range(14)], champions=1)
    unfinished = made.run("stopped", made.store(DOCUMENTS[:10]), state="stopped")
    assert not any("record" in name for name in names(collect(ALL_AGES)))
    old = ALL_AGES.model_copy(update={"history": 3600})
    told = [run.record.mlflow_run_id for run in (*runs, unfinished)]
    assert names(collect(old)) == [f"record: run {runs[0].id}"]
    assert [run.path.exists() for run in (*runs, unfinished)] == [False, True, True, True]
    assert [client.get_run(known).info.run_id for known in told[1:]] == told[1:]
    with pytest.raises(MlflowException, match="not found"):
        client.get_run(told[0])
    assert find_leftovers(old).rows == []


def test_nobody_loses_what_they_have_just_begun_to_need(made: MadeWorkspace) -> None:
    runs = nights(made, [range(10), range(12), range(14)], champions=1)
    lock = FlowRunLock.of(made.workspace, uuid4())
    with lock.taken():
        lock.write(Record(process=1))
        with pytest.raises(UserError, match=r"\(process 1\) is under way and trains nothing"):
            collect(ALL_AGES)
        lock.write(Record(process=os.getpid()))  # the night at whose end gc runs
        assert names(collect(RetentionSettings(keep_versions=9, older_than=0))) != []
        lock.write(Record(process=1))
        with locked(runs[0].path / "lock"):
            (runs[0].path / "lock").write_text("process 1 since today")
            (runs[0].path / "result.json").unlink()
            assert not any(runs[0].id in name for name in names(collect(ALL_AGES)))
            (runs[0].path / "run.json").unlink()
            with pytest.raises(UserError, match=f"Run {runs[0].id} has just begun"):
                collect(ALL_AGES)
    with locked(made.workspace.stores), pytest.raises(UserError, match="Text is being encoded"):
        collect(ALL_AGES)
    with locked(made.workspace.root / "maintenance.lock"), pytest.raises(UserError, match="A backup, restore or gc of"):
        collect(ALL_AGES)


def test_a_registry_that_does_not_answer_loses_nothing(made: MadeWorkspace, monkeypatch: pytest.MonkeyPatch) -> None:
    nights(made, [range(10), range(12), range(14)], champions=1)
    before = everything_in(made.workspace)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(UserError, match="Nothing was removed: MLflow at"):
        collect(ALL_AGES)
    assert everything_in(made.workspace) == before


class Draw:
    """A workspace at random: nights of two models, aliases, runs in every state."""

    def __init__(self, made: MadeWorkspace, seed: int) -> None:
        self._made, self._random = made, random.Random(seed)
        self._runs: list[RunFolder] = []
        for _ in range(self._random.randrange(5, 9)):
            self._night()
        client = MlflowClient()
        for alias in ("champion", "previous", "candidate"):
            for name in registered_models(client):
                if self._random.random() < 0.7:
                    client.set_registered_model_alias(name, alias, self._random.choice(versions_of(client, name)).number)

    def _night(self) -> None:
        draw, name = self._random, self._random.choice(["a", "b"])
        first = draw.randrange(0, 30)
        store = self._made.store(DOCUMENTS[first : first + draw.randrange(10, 40)])
        base = draw.choice(["scratch", *(version.uri for version in all_versions()), *(str(run.path) for run in self._runs)])
        state = draw.choice(["finished", "finished", "finished", "stopped", "failed"])
        registered = state == "finished" and draw.random() < 0.8
        origin = draw.choice(self._runs).checkpoint_path(4) if self._runs and draw.random() < 0.3 else None
        known = {"state": state, "origin": origin, "pinned": draw.random() < 0.1, "registered": "1" if registered else None}
        run = self._made.run(name, store, base, **known)
        self._runs.append(run)
        if registered:
            self._made.version(name, store, base, run=run.id)


def decisions(versions: list[Version]) -> dict[str, object]:
    """What each version would be decided on: against the champion of its model, or what a first one must beat."""
    found: dict[str, object] = {}
    for version in versions:
        champion = next((one for one in versions if one.name == version.name and "champion" in one.aliases), None)
        candidate, rival = learner(version), learner(champion) if champion else None
        try:
            text = freeze_text(PromotionSettings(), candidate, rival)
            found[version.uri] = (text.facts, sorted(candidate.learnt_from()), [one.text for one in text.documents])
        except NoTextError as error:
            found[version.uri] = str(error)
    return found


def needs_of_unfinished(workspace: Workspace) -> dict[str, bytes]:
    """Files without which an unfinished run does not resume."""
    needed, content = set(), everything_in(workspace)
    for run in (RunFolder(path) for path in workspace.runs.iterdir()):
        if run.state() != "finished" or any(run.checkpoints.glob("*.pin")):
            needed |= {f"runs/{run.id}/", f"stores/{run.record.store}/"}
        if run.state() != "finished" and run.record.origin:
            needed.add(f"{Path(run.record.origin.path).relative_to(workspace.root).as_posix()}/")
    return {name: data for name, data in content.items() if name.startswith(tuple(needed))}


@pytest.mark.parametrize("seed", [1, 2, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(3, 40))])
def test_after_gc_versions_load_runs_resume_and_decisions_are_the_same(made: MadeWorkspace, seed: int) -> None:
    Draw(made, seed)
    versions, needed = all_versions(), needs_of_unfinished(made.workspace)
    before = decisions(versions)
    gone = {row.name for row in collect(RetentionSettings(keep_versions=seed % 3, older_than=0)).rows}
    after = all_versions()
    assert {version.uri for version in versions} - {version.uri for version in after} == {
        name for name in gone if name.startswith("models:/")
    }
    for version in after:
        assert content_hash(version.folder) == version.tags["content"]
    assert needs_of_unfinished(made.workspace) == needed
    assert decisions(after) == {version.uri: before[version.uri] for version in after}
    spare = [version for version in after if not version.aliases]
    bases = {run.record.config.model.base for run in map(RunFolder, made.workspace.runs.iterdir())}
    bases |= {version.tags["base"] for version in after}
    for name in ("a", "b"):
        assert sum(version.name == name and version.uri not in bases for version in spare) <= seed % 3
    for path in made.workspace.stores.glob("*/"):
        open_store(path)
    assert find_leftovers(RetentionSettings(keep_versions=seed % 3, older_than=0)).rows == []
