"""The page of a whole workspace: what it says, that it needs no network, and that names and texts cannot break it."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from mlflow import MlflowClient

import tasks  # noqa: F401  # first: it points MLflow at the tests' workspace
from configs.errors import UserError
from flows.cli.main import app
from gpt2core.machine.sealed_json import write_sealed
from tasks.alerts.alert import Alert
from tasks.alerts.alert_log import AlertLog
from tasks.monitoring.overview import gather_overview, write_overview
from tasks.runs.run_folder import RunFolder
from tasks.workspace.databases import prepare_databases
from tasks.workspace.folders import Workspace

NIGHT = {"name": "tale", "text": "t1", "begun": "2030-01-02T03:00:00", "base": "scratch", "tokenizer": "train"}


class Page(HTMLParser):
    """Tags that are open, and every address that a browser would fetch."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.fetched: list[str] = []
        self.links: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in ("meta", "br", "input", "link", "img"):
            self.open.append(tag)
        self.fetched += [value or "" for name, value in attrs if name == "src" or (name == "href" and tag == "link")]
        self.links += [value or "" for name, value in attrs if name == "href" and tag == "a"]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.fixture
def workspace(folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """With a run, a registered version, two nights and an alert."""
    workspace = Workspace.current().create()
    prepare_databases(workspace)
    kept = workspace.runs / folder.id
    if not kept.exists():
        folder.path.rename(kept)
        client = MlflowClient()
        client.create_registered_model("tale")
        client.create_model_version("tale", "file:///nowhere", tags={"run": folder.id, "base": "scratch"})
        client.set_registered_model_alias("tale", "champion", "1")
    nights = workspace.nights / "tale"
    nights.mkdir(parents=True, exist_ok=True)
    ended = {"ended": "2030-01-02T04:00:00", "run": folder.id, "version": "1", "promoted": True, "reason": "better <b>by far"}
    write_sealed(nights / "t1.json", {**NIGHT, **ended})
    write_sealed(nights / "t2.json", {**NIGHT, "text": "t2", "begun": "2030-01-03T03:00:00", "base": "models:/tale/1"})
    AlertLog(workspace).note(Alert("slow", "tale", "Half of </script> it."), 0)
    return workspace


def test_it_tells_of_runs_versions_nights_and_alerts(workspace: Workspace, tmp_path: Path) -> None:
    found = gather_overview(workspace, workspace.root)
    run = next(run for run in found.runs if run.run == "tale-1234")
    assert (run.state, run.best_step, run.val_loss, run.bits_per_byte) == ("stopped", 10, 3.25, 1.625)
    model = next(model for model in found.models if model.name == "tale")
    assert [(line.number, line.aliases, line.run) for line in model.versions] == [("1", "champion", "tale-1234")]
    [part] = found.nights
    outcomes = [(row.outcome, row.night.base, row.bits_per_byte) for row in part.nights]
    assert outcomes == [("promoted", "scratch", 1.625), ("under way, or interrupted", "models:/tale/1", None)]
    assert found.alerts[0].text == "Half of </script> it."
    assert any(chart.title.startswith("tale: validation loss") for chart in found.curves)


def test_the_page_is_whole_fetches_nothing_and_leads_to_the_runs_pages(workspace: Workspace, tmp_path: Path) -> None:
    report = workspace.runs / "tale-1234" / "report.html"
    report.write_text("a page")
    for place in (None, tmp_path / "elsewhere" / "all.html"):
        if place:
            place.parent.mkdir()
        written = write_overview(workspace, place)
        text = written.read_text(encoding="utf-8")
        page = Page(text)
        assert page.open == []
        assert page.fetched == []
        assert not re.search(r"https?://(?!www\.w3\.org)", text)
        assert "better &lt;b&gt;by far" in text
        [link] = [link for link in page.links if "tale-1234" in link]
        assert (written.parent / link).resolve() == report.resolve()
        assert json.dumps("</script>") not in text


def test_an_empty_workspace_has_a_page_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = write_overview(Workspace(tmp_path), tmp_path / "all.html").read_text(encoding="utf-8")
    for part in ("No runs yet.", "No night has begun yet.", "Nothing was told yet."):
        assert part in text


def test_a_registry_that_is_away_is_said_and_the_rest_is_there(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tasks.monitoring.overview.MlflowClient", lambda: MlflowClient(registry_uri="http://127.0.0.1:9"))
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    found = gather_overview(workspace, workspace.root)
    assert "does not answer" in found.models_problem
    assert found.runs


def test_a_run_or_all_but_not_both(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["report"], ["report", "tale", "--all"]):
        with pytest.raises(UserError, match="Name a run, such as demo, or give --all"):
            app(arguments, exit_on_error=False, result_action="return_value")
