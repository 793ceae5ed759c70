"""What the command line prints of registered models and versions."""

from io import StringIO

import pytest
from rich.console import Console

import tasks  # noqa: F401  # first: it points MLflow at the tests' workspace
from flows.pages.models import print_difference, print_models, print_versions
from tasks.promotion.versions import Difference, ModelRow, VersionRow
from tasks.registry.lookup import Version

FIRST = Version("demo", "1", "r", 0, {"run": "demo-1"}, ("previous",))
SECOND = Version("demo", "2", "r", 90_000_000, {"run": "demo-2"}, ("candidate", "champion"))


@pytest.fixture
def console() -> Console:
    return Console(file=StringIO(), width=160, highlight=False)


def lines(console: Console) -> list[str]:
    assert isinstance(console.file, StringIO)
    return [line.rstrip() for line in console.file.getvalue().splitlines()]


def test_models_are_printed_with_their_aliases(console: Console) -> None:
    print_models(console, [ModelRow("demo", 2, {"previous": "1", "champion": "2"})])
    assert lines(console)[1].split("  ")[0] == "demo"
    assert "champion 2, previous 1" in lines(console)[1]


def test_where_no_model_is_there_it_says_how_to_make_one(console: Console) -> None:
    print_models(console, [])
    assert lines(console) == ["No model is registered yet: gpt2flow run configs/demo.yaml makes one."]


def test_versions_are_printed_with_figures_size_and_lineage(console: Console) -> None:
    rows = [
        VersionRow(SECOND, {"bits_per_byte": 2.0, "val_loss": 3.5}, 2_000_000, ["models:/demo/1", "scratch"]),
        VersionRow(FIRST, {}, None, []),
    ]
    print_versions(console, rows)
    assert lines(console) == [
        "models:/demo/2  1970-01-02 01:00 UTC  candidate, champion",
        "   bits per byte 2.0000, validation loss 3.5000, 2.0 MB, run demo-2, from models:/demo/1 ← scratch",
        "models:/demo/1  1970-01-01 00:00 UTC  previous",
        "   files are gone, run demo-1",
    ]


def test_a_difference_shows_what_differs_and_says_what_does_not(console: Console) -> None:
    samples = [("The ", "old [end]", "new")]
    print_difference(console, Difference(FIRST, SECOND, [("train.steps", "8", "9")], [], [("val_loss", "3", "2")], samples))
    shown = "\n".join(lines(console))
    assert "train.steps  8" in shown
    assert "text: the same, as far as is recorded" in shown
    assert "old [end]" in shown
    assert "models:/demo/1" in shown
