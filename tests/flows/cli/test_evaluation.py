"""What a run measures at its evaluations, with real Prefect and MLflow.

Also tests `tasks.evaluation.copied_passages`, `tasks.evaluation.evaluate_step`, `tasks.reports.lens`.
"""

import json
import subprocess
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
from mlflow import MlflowClient
from safetensors.torch import load_file
from tiny import tiny_run

from configs.evaluation import ScoringSettings
from configs.schema import RunConfig
from flows.finetune import finetune
from gpt2core.evaluation.document_scores import DocumentScores
from gpt2core.evaluation.sample_quality import SampleQuality
from gpt2core.store.document_stream import split_of_store
from gpt2core.store.token_store import open_store
from gpt2core.text.tokenizer import load_tokenizer
from tasks.evaluation.compare import Text, compare
from tasks.evaluation.copied_passages import CopySearch
from tasks.evaluation.in_process import ProcessEvaluation
from tasks.runs.models import best_checkpoint
from tasks.runs.run_folder import RunFolder
from tasks.workspace.folders import Workspace

QUALITY = {f"sample_{field.name}" for field in fields(SampleQuality)}
SIZES = {"n_ctx": 16, "n_embd": 16, "n_head": 2, "n_layer": 2}


def config_of(name: str, source: Path, **evaluate: object) -> RunConfig:
    evaluate = {"prompts": ["The ", ""], "max_new_tokens": 12, "lens": True, **evaluate}
    return tiny_run(name, source, data={"mask_documents": True}, train={"learning_rate": 1e-2}, evaluate=evaluate)


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two files, one with many documents."""
    Workspace.current().create()
    folder = tmp_path_factory.mktemp("text")
    lines = [f"The {i}th line says that {i} times {i} is {i * i}.\n\n" for i in range(300)]
    (folder / "a.jsonl").write_text("".join(json.dumps({"text": line}) + "\n" for line in lines[:200]))
    (folder / "b.txt").write_text("".join(lines[200:]))
    return folder


@pytest.fixture(scope="module")
def evaluated(text: Path) -> RunFolder:
    """A finished run with every figure on."""
    return RunFolder(Path(finetune(config_of("evaluated", text, stride=5, canaries=["line 7 says 49"])).folder))


def test_every_evaluation_has_its_figures_and_the_gain_over_the_first(evaluated: RunFolder) -> None:
    first, *later = evaluated.evaluations.rows()
    expected = {"val_loss", "perplexity", "bits_per_byte", "val_tokens", "accuracy", "calibration_error", "sample_distinct_2"}
    assert expected <= set(first)
    assert "gain" not in first
    for row in later:
        assert row["gain"] == pytest.approx(first["val_loss"] - row["val_loss"])
        assert row["gain_low"] <= row["gain"] <= row["gain_high"]


def test_the_report_has_sources_lengths_and_documents(evaluated: RunFolder) -> None:
    as_data, by_document = evaluated.report_files(8)
    report, row = json.loads(as_data.read_text()), evaluated.evaluations.rows()[-1]
    assert {"a.jsonl", "b.txt"} >= {Path(part["name"]).name for part in report["by_source"]}
    for parts in (report["by_source"], report["by_length"]):
        whole = sum(part["val_loss"] * part["val_tokens"] for part in parts) / row["val_tokens"]
        assert whole == pytest.approx(row["val_loss"])
    documents = DocumentScores.load(by_document)
    assert documents.nats.sum() / documents.tokens.sum() == pytest.approx(row["val_loss"])


def test_mlflow_has_every_figure_by_step(evaluated: RunFolder) -> None:
    client, run_id = MlflowClient(), evaluated.read("run")["mlflow_run_id"]
    for row in evaluated.evaluations.rows():
        for key in set(row) - {"step"}:
            history = {metric.step: metric.value for metric in client.get_metric_history(run_id, key)}
            assert history[row["step"]] == pytest.approx(row[key])


def test_evaluating_at_any_interval_with_everything_on_leaves_the_weights_as_they_are(text: Path, evaluated: RunFolder) -> None:
    plain = config_of("evaluated-rarely", text, every=8, prompts=[], max_windows=3, copied_tokens=0, canaries=[])
    other = RunFolder(Path(finetune(plain).folder))
    for file in ("model.safetensors", "optimizer.safetensors"):
        one, two = (load_file(run.checkpoints / "step-00000008" / file) for run in (other, evaluated))
        assert {name: tensor.numpy().tobytes() for name, tensor in one.items()} == {
            name: tensor.numpy().tobytes() for name, tensor in two.items()
        }


def test_samples_and_canaries_are_measured(evaluated: RunFolder) -> None:
    report, row = json.loads(evaluated.report_files(8)[0].read_text()), evaluated.evaluations.rows()[-1]
    assert report["samples"] == {name.removeprefix("sample_"): row[name] for name in row if name in QUALITY}
    assert report["copies"]["longest"] == row["sample_longest_copy"]
    assert [canary["canary"] for canary in report["canaries"]] == ["line 7 says 49"]
    assert 0 <= row["canary_exposure"] <= 8
    samples = json.loads(evaluated.sample_files(8)[0].read_text())
    assert [sample["tokens"] for sample in samples] == [12, 12] or any(sample["ended"] for sample in samples)


def test_a_passage_of_the_training_text_is_found_with_its_document(evaluated: RunFolder) -> None:
    store = open_store(Workspace.current().stores / evaluated.read("run")["store"])
    tokenizer = load_tokenizer(evaluated.checkpoints / "step-00000008")
    training = split_of_store(store, tokenizer, "train")
    sample = np.empty(70, dtype=np.int64)
    place = int(training.starts[-1]) + 5  # b.txt, the only long document
    training.stream.read(place, 60, sample)
    sample[60:] = np.arange(10)
    found = CopySearch(store, tokenizer).look([sample.tolist(), [1, 2, 3]])
    assert found.longest == found.passages[0].tokens >= 60
    assert found.share == pytest.approx(11 / 21, abs=0.1)
    assert found.passages[0].source.endswith("b.txt")
    assert found.passages[0].text.startswith(tokenizer.decode(sample[:60].tolist()))
    assert len(found.passages) == 1


def test_the_best_checkpoint_is_the_best_by_the_chosen_figure(evaluated: RunFolder) -> None:
    rows = evaluated.evaluations.rows()
    assert best_checkpoint(evaluated).name == f"step-{min(rows, key=lambda row: row['val_loss'])['step']:08d}"
    log = evaluated.evaluations.path
    kept, settings = log.read_text(), evaluated.read("run")
    try:
        worse = [{**row, "accuracy": 0.9 if row["step"] == 4 else 0.1} for row in rows]
        log.write_text("".join(json.dumps(row) + "\n" for row in worse))
        evaluate = {**settings["config"]["evaluate"], "best_by": "accuracy"}
        evaluated.write("run", {**settings, "config": {**settings["config"], "evaluate": evaluate}})
        assert best_checkpoint(evaluated).name == "step-00000004"
    finally:
        log.write_text(kept)
        evaluated.write("run", settings)


def test_later_the_model_is_scored_as_at_its_evaluation_documents_kept_apart(evaluated: RunFolder) -> None:
    best = min(evaluated.evaluations.rows(), key=lambda row: row["val_loss"])
    found = compare(evaluated.id, Text([]), ScoringSettings(stride=5, batch_size=2)).report.figures
    assert found.val_loss == pytest.approx(best["val_loss"], rel=1e-6)


@pytest.fixture(scope="module")
def evaluated_outside(text: Path) -> RunFolder:
    """The same run, evaluated by another process, the first of which dies."""
    started: list[int] = []
    begin = ProcessEvaluation._start

    def dying_once(self: ProcessEvaluation) -> subprocess.Popen[bytes]:
        process = begin(self)
        started.append(self.step)
        if len(started) == 1:
            process.kill()
        return process

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ProcessEvaluation, "_start", dying_once)
        config = config_of("evaluated-outside", text, stride=5, canaries=["line 7 says 49"], where="process")
        folder = RunFolder(Path(finetune(config).folder))
    assert started == [4, 4, 8]
    return folder


def test_another_process_finds_the_same_figures_and_samples_even_if_it_dies_once(
    evaluated: RunFolder, evaluated_outside: RunFolder
) -> None:
    assert evaluated_outside.evaluations.rows() == evaluated.evaluations.rows()
    for step in (0, 4, 8):
        for inside, outside in zip(
            (*evaluated.sample_files(step), *evaluated.report_files(step)),
            (*evaluated_outside.sample_files(step), *evaluated_outside.report_files(step)),
            strict=True,
        ):
            assert inside.read_bytes() == outside.read_bytes()
    assert not [path for path in evaluated_outside.reports.iterdir() if path.suffix in (".row", ".lock", ".log", ".tmp")]


def test_an_evaluation_that_was_cut_off_with_the_run_is_made_up_for(evaluated_outside: RunFolder, text: Path) -> None:
    rows = evaluated_outside.evaluations.rows()
    (evaluated_outside.path / "result.json").unlink()
    evaluated_outside.evaluations.path.write_text("".join(json.dumps(row) + "\n" for row in rows if row["step"] == 0))
    config = config_of("evaluated-outside", text, stride=5, canaries=["line 7 says 49"], where="process")
    assert finetune(config).best_step == 8
    assert evaluated_outside.evaluations.rows() == rows
