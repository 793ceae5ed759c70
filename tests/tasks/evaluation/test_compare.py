"""Evaluating any model on any text, from outside of a run."""

import json
import math
from pathlib import Path

import pytest
from rich.console import Console

from configs.errors import UserError
from configs.evaluation import ScoringSettings
from configs.schema import DataSettings
from flows.pages.evaluation import print_comparison, print_tasks
from gpt2core.weights.loading import load_model, save_model
from tasks.evaluation.compare import Text, compare, run_tasks, write_comparison, write_tasks
from tasks.workspace.folders import Workspace


@pytest.fixture
def base(golden: Path) -> Path:
    Workspace.current().create()
    return golden / "openai-tiny" / "models" / "tiny"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "lines.jsonl"
    path.write_text("".join(json.dumps({"text": f"Line {i} says {i * i}."}) + "\n" for i in range(60)))
    return path


def test_a_model_gains_over_a_worse_one_and_the_file_has_all_figures(
    base: Path, file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    worse = tmp_path / "worse"
    model = load_model(base)
    model.ln_f.weight.data.mul_(3)  # too sure of what it does not know
    save_model(model, worse)
    for name in ("encoder.json", "vocab.bpe"):
        (worse / name).write_bytes((base / name).read_bytes())
    found = compare(str(base), Text([str(file)]), ScoringSettings(stride=8), against=str(worse))
    assert found.other is not None
    assert found.gain is not None
    difference = found.other.figures.bits_per_byte - found.report.figures.bits_per_byte
    assert found.gain.gain == pytest.approx(difference, rel=1e-3)
    assert 0 < found.gain.low < found.gain.gain < found.gain.high
    write_comparison(found, tmp_path / "evaluation.json")
    written = json.loads((tmp_path / "evaluation.json").read_text())
    assert written["figures"]["val_loss"] == found.report.figures.val_loss
    assert written["against"]["figures"]["val_loss"] == found.other.figures.val_loss
    print_comparison(found, Console(width=160))
    assert "better (95% interval" in capsys.readouterr().out


def test_bytes_are_counted_whatever_the_vocabulary(base: Path, file: Path) -> None:
    figures = compare(str(base), Text([str(file)]), ScoringSettings()).report.figures
    n_bytes = sum(len(f"Line {i} says {i * i}.") for i in range(60)) - 1  # the first one is not predicted
    assert figures.bits_per_byte == pytest.approx(figures.val_loss * figures.val_tokens / math.log(2) / n_bytes)


def test_the_held_out_side_of_a_corpus_can_be_asked_for(base: Path, file: Path) -> None:
    whole = compare(str(base), Text([str(file)]), ScoringSettings()).report
    held_out = compare(str(base), Text([], DataSettings(source=[str(file)], validation=0.5)), ScoringSettings()).report
    assert 0 < held_out.figures.val_tokens < whole.figures.val_tokens


def test_a_model_without_a_run_needs_a_text(base: Path) -> None:
    with pytest.raises(UserError, match="is not here: give one with --text"):
        compare(str(base), Text([]), ScoringSettings())


def test_tasks_are_shown_and_written(base: Path, golden: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results = run_tasks(str(base), {"lambada": golden / "zero_shot" / "lambada.jsonl"})
    print_tasks(results, Console(width=120))
    write_tasks(str(base), results, tmp_path / "tasks.json")
    assert "last_token_accuracy" in capsys.readouterr().out
    (written,) = json.loads((tmp_path / "tasks.json").read_text())["tasks"]
    assert written["items"] == 8
    assert written["figures"] == results[0].figures
