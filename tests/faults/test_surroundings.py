"""What a run depends on goes away or changes: the disk, the tracking server, the folder's place, a finite loss.

Also tests `tasks.finetuning.checkpoint_keeper`, `tasks.runs.evaluation_files`.
"""

import itertools
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import mlflow
import pytest
import torch
import yaml
from mlflow import MlflowClient
from tiny import SMALLEST, tiny_run
from torch import Tensor

from configs.errors import UserError
from configs.schema import RunConfig
from flows.finetune import finetune
from gpt2core.checkpoints.checkpoint import Checkpoint, find_checkpoints, find_damage, read_state
from gpt2core.checkpoints.retention import saved_at
from gpt2core.model.config import GPT2Config
from gpt2core.model.document_mask import DocumentMask
from gpt2core.model.gpt2 import GPT2
from gpt2core.model.linear_cross_entropy import IGNORED
from gpt2core.store.manifest import read_manifest
from gpt2core.store.token_store import TokenStream
from gpt2core.text.tokenizer import Tokenizer, train_tokenizer
from gpt2core.training.batches import Batches
from gpt2core.training.trainer import Trainer
from tasks.evaluation.outside import OutsideEvaluation
from tasks.finetuning.checkpoint_keeper import CheckpointKeeper
from tasks.processes.ranks import Ranks
from tasks.runs.evaluation_files import damaged_evaluation_files, read_report
from tasks.runs.run_folder import RunFolder
from tasks.tracking.reconciliation import reconcile
from tasks.workspace.folders import Workspace

POISONED = 6


class PoisonedBatches(Batches):
    """The windows of one update have no targets, by which `poisoned_loss` knows them."""

    def at(self, index: int) -> tuple[Tensor, Tensor]:
        inputs, targets = super().at(index)
        return inputs, torch.full_like(targets, IGNORED) if index == POISONED - 1 else targets


def poisoned_loss(model: GPT2, tokens: Tensor, targets: Tensor, mask: DocumentMask | None = None) -> Tensor:
    """The model's loss, but NaN where there are no targets."""
    loss = finite_loss(model, tokens, targets, mask)
    return loss * float("nan") if bool((targets == IGNORED).all()) else loss


finite_loss = GPT2.loss


def config_with(text: Path, name: str, **train: object) -> RunConfig:
    return tiny_run(name, text, model={"n_layer": 1, "dropout": 0}, train=train, evaluate={"max_new_tokens": 4})


@pytest.fixture(scope="module")
def evaluated(text: Path) -> RunFolder:
    """A finished run."""
    return RunFolder(Path(finetune(config_with(text, "evaluated")).folder))


def history_of(folder: RunFolder, key: str) -> list[tuple[int, float]]:
    """Steps and values that MLflow has of a metric."""
    history = MlflowClient().get_metric_history(folder.read("run")["mlflow_run_id"], key)
    return [(metric.step, metric.value) for metric in history]


def losses_in_mlflow(folder: RunFolder) -> list[int]:
    return [step for step, _ in history_of(folder, "loss")]


def test_a_diverged_run_is_rewound_and_ends_with_every_step(text: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tasks.finetuning.build_trainer.Batches", PoisonedBatches)
    monkeypatch.setattr(GPT2, "loss", poisoned_loss)
    monkeypatch.setattr(
        "tasks.tracking.mlflow_mirror.DELIVERY_INTERVAL", 0.001
    )  # so that MLflow has the steps that are made again
    folder = RunFolder(Path(finetune(config_with(text, "rewound", on_divergence="rewind")).folder))
    rows = folder.metrics.rows()
    assert [row["step"] for row in rows] == list(range(1, 9))
    assert all(row["loss"] == row["loss"] for row in rows)
    assert history_of(folder, "loss") == [(row["step"], row["loss"]) for row in rows]


@pytest.mark.slow
def test_a_tracking_server_that_is_away_costs_nothing_and_gets_everything_later(text: Path) -> None:
    known = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri("http://127.0.0.1:9")
    try:
        folder = RunFolder(Path(finetune(config_with(text, "away")).folder))
    finally:
        mlflow.set_tracking_uri(known)
    assert folder.read("tracking")["status"] == "RUNNING"
    for _ in range(2):
        assert reconcile(Workspace.current(), everything=True)[folder.id] == "FINISHED"
        assert losses_in_mlflow(folder) == list(range(1, 9))
    assert reconcile(Workspace.current()) == {}


@pytest.mark.slow
def test_a_run_goes_on_exactly_on_another_machine_with_its_folder_alone(text: Path, tmp_path: Path) -> None:
    config = config_with(text, "moved")
    folder, home = RunFolder(Path(finetune(config).folder)), tmp_path / "home of somebody else"
    expected = (folder.path / "checkpoints/step-00000008/model.safetensors").read_bytes()
    moved = RunFolder(home / ".gpt2flow/runs" / folder.id)
    shutil.copytree(folder.path, moved.path, ignore=shutil.ignore_patterns("step-00000008*", "result.json", "lock"))
    elsewhere = config.model_copy(update={"data": config.data.model_copy(update={"source": [str(shutil.copy(text, home))]})})
    (home / "moved.yaml").write_text(yaml.safe_dump(elsewhere.model_dump(mode="json")))
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("GPT2FLOW", "MLFLOW", "PREFECT"))}
    command = [sys.executable, "-m", "flows.cli", "run", "moved.yaml"]
    done = subprocess.run(command, cwd=home, env={**environment, "HOME": str(home)}, capture_output=True, text=True, check=True)
    assert f"{folder.id} goes on at step 4" in done.stdout
    assert (moved.path / "checkpoints/step-00000008/model.safetensors").read_bytes() == expected
    rows = moved.metrics.rows()
    assert rows == folder.metrics.rows()
    there = MlflowClient(f"sqlite:///{home}/.gpt2flow/mlflow/mlflow.db")
    (run,) = there.search_runs([experiment.experiment_id for experiment in there.search_experiments()])
    history = there.get_metric_history(run.info.run_id, "loss")
    assert [(metric.step, metric.value) for metric in history] == [(row["step"], row["loss"]) for row in rows]


def keeper_on(disk: Path) -> tuple[CheckpointKeeper, Trainer, Tokenizer]:
    settings = {"steps": 60, "batch_size": 1, "warmup_steps": 0, "keep_checkpoints": 1}
    folder, config = RunFolder(disk), RunConfig.model_validate({"train": settings, "model": SMALLEST})
    stream = TokenStream([torch.arange(500).remainder(260).to(torch.int32).numpy()])
    trainer = Trainer(GPT2(GPT2Config(260, 8, 8, 1, 1)).initialise(0), Batches(stream, 8, 1, 0), config.train)
    tokenizer = train_tokenizer(["a text"], 257)
    outside = OutsideEvaluation(folder, config.evaluate.where)
    keeper = CheckpointKeeper(folder, config, trainer, tokenizer, lambda: {"run": folder.id}, outside, Ranks(folder))
    return keeper, trainer, tokenizer


def test_a_folder_that_became_read_only_is_one_sentence(small_disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tasks.finetuning.checkpoint_keeper.SPARE_BYTES", 0)
    keeper, trainer, _ = keeper_on(small_disk)
    trainer.run_until(1)
    keeper.save()
    keeper.finish()
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    trainer.run_until(2)
    keeper.save()
    with pytest.raises(UserError, match=r"step-00000002 cannot be written \(Read-only file system\): correct its permissions"):
        keeper.finish()
    (kept,) = find_checkpoints(small_disk / "checkpoints")
    assert find_damage(kept) == ""


def test_a_clock_that_goes_back_changes_nothing(text: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usual = RunFolder(Path(finetune(config_with(text, "clock")).folder))
    now = itertools.count(time.time(), -3600)
    monkeypatch.setattr(time, "time", lambda: next(now))
    backwards = RunFolder(Path(finetune(config_with(text, "clock-back", keep_every_hours=0.5)).folder))
    assert backwards.metrics.path.read_bytes() == usual.metrics.path.read_bytes()
    assert sorted(losses_in_mlflow(backwards)) == list(range(1, 9))  # MLflow gives them by date
    saved = [saved_at(checkpoint) for checkpoint in find_checkpoints(backwards.checkpoints)]
    assert saved[0] > saved[1]


def test_a_damaged_run_file_is_said_and_made_again(text: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = config_with(text, "damaged")
    folder = RunFolder(Path(finetune(config).folder))
    (folder.path / "result.json").unlink()
    before, file = folder.read("run"), folder.path / "run.json"
    file.write_bytes(file.read_bytes().replace(b'"batch_size": 2', b'"batch_size": 3'))
    finetune(config)
    assert "run.json is not what was written: it is made again from the newest checkpoint" in capsys.readouterr().out
    after = folder.read("run")
    assert (after["mlflow_run_id"], after["key"], after["config"]) == (before["mlflow_run_id"], before["key"], before["config"])
    assert losses_in_mlflow(folder) == list(range(1, 9))


def test_metrics_that_are_not_what_was_written_are_named(text: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = config_with(text, "flipped")
    folder = RunFolder(Path(finetune(config).folder))
    (folder.path / "result.json").unlink()
    content = bytearray(folder.metrics.path.read_bytes())
    content[content.index(b"loss") + 9] ^= 1  # a digit of the first loss
    folder.metrics.path.write_bytes(content)
    finetune(config)
    assert "metrics.jsonl is not what was written up to step 8" in capsys.readouterr().out


def is_found(file: Path, folder: RunFolder) -> bool:
    """Whether whoever reads a sealed file of a run sees that it is not what was written."""
    if file.parent == folder.path:
        return folder.is_damaged(file.stem)  # type: ignore[arg-type]
    if file.parent == folder.reports:
        return not read_report(folder, int(file.stem.removeprefix("step-")))
    checkpoint = Checkpoint(file.parent, 0)
    if file.name == "manifest.json" and file.parent.parent == folder.checkpoints:
        return find_damage(checkpoint) == "manifest.json is not what was written"
    try:
        read_manifest(file.parent) if file.name == "manifest.json" else read_state(checkpoint)
    except UserError as error:
        return str(file) in str(error)
    return False


def test_every_flipped_bit_of_every_sealed_file_of_a_run_is_found(evaluated: RunFolder) -> None:
    store = Workspace.current().stores / evaluated.read("run")["store"]
    sealed = [file for place in (evaluated.path, store) for file in place.rglob("*.json") if b'"seal"' in file.read_bytes()]
    kinds = {"run", "result", "tracking", "manifest", "state", "step-00000008"}
    assert kinds <= {file.stem for file in sealed}
    for file in sealed:
        content = file.read_bytes()
        with file.open("r+b", buffering=0) as changed:
            for bit in range(8 * len(content)):
                os.pwrite(changed.fileno(), bytes([content[bit // 8] ^ 1 << bit % 8]), bit // 8)
                assert is_found(file, evaluated), (file, bit)
                os.pwrite(changed.fileno(), content[bit // 8 : bit // 8 + 1], bit // 8)
        assert not is_found(file, evaluated)


@pytest.mark.parametrize("name", ["samples/{}.json", "samples/{}.txt", "evaluations/{}.json", "evaluations/{}.parquet"])
def test_a_flipped_bit_in_what_an_evaluation_wrote_is_named(
    evaluated: RunFolder, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    file = evaluated.path / name.format("step-00000008")
    content = file.read_bytes()
    for position in range(0, len(content), max(1, len(content) // 40)):
        changed = bytearray(content)
        changed[position] ^= 1 << position % 8
        file.write_bytes(changed)
        assert list(damaged_evaluation_files(evaluated)) == [file], position
    (evaluated.path / "result.json").unlink(missing_ok=True)
    finetune(RunConfig.model_validate(evaluated.read("run")["config"]))
    assert f"{file} is not what was written" in capsys.readouterr().out
    file.write_bytes(content)
    assert list(damaged_evaluation_files(evaluated)) == []


def test_a_full_disk_pauses_saving_and_not_training(
    small_disk: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("tasks.finetuning.checkpoint_keeper.SPARE_BYTES", 0)  # so that the write itself meets the full disk
    keeper, trainer, _ = keeper_on(small_disk)
    trainer.run_until(1)
    keeper.save()
    keeper.wait()
    (small_disk / "filler").write_bytes(bytes(100_000))
    trainer.run_until(11)
    keeper.save()
    trainer.run_until(21)
    with pytest.raises(UserError, match="The disk is full at"):
        keeper.finish()
    assert [checkpoint.step for checkpoint in find_checkpoints(small_disk / "checkpoints")] == [1]
    (small_disk / "filler").unlink()
    trainer.run_until(31)
    keeper.finish()
    newest = find_checkpoints(small_disk / "checkpoints")[-1]
    assert newest.step == 31
    assert find_damage(newest) == ""
    printed = capsys.readouterr().out
    assert printed.count("saving pauses at step") == 1
    assert "the checkpoint of step 1 is kept" in printed
    assert "there is room again" in printed
