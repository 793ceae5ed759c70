"""train.restore_from: beginning with a checkpoint of an earlier run.

Also tests `tasks.runs.start`.
"""

import shutil
from pathlib import Path

import pytest
from tiny import tiny_run

from configs.errors import UserError
from configs.schema import RunConfig
from flows.finetune import finetune
from gpt2core.machine.kernel_level import level
from tasks.finetuning.result import RunResult
from tasks.runs.identity import run_id_of_0_1
from tasks.runs.run_folder import RunFolder
from tasks.workspace.folders import Workspace


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file: Path = tmp_path_factory.mktemp("text") / "a.txt"
    file.write_text("".join(f"The {i}th line says that {i} times {i} is {i * i}.\n\n" for i in range(300)))
    return file


def config_with(text: Path, name: str = "longer", **train: object) -> RunConfig:
    settings = {"steps": 4, "schedule": "constant", "checkpoint_every": 2, **train}
    return tiny_run(name, text, model={"n_layer": 1}, train=settings, evaluate={"max_new_tokens": 4})


@pytest.fixture(scope="module")
def short(text: Path) -> RunResult:
    """A run of four steps."""
    Workspace.current().create()
    return finetune(config_with(text))


def test_a_run_made_longer_ends_with_the_weights_of_one_that_was_long_from_the_start(short: RunResult, text: Path) -> None:
    longer = finetune(config_with(text, steps=8, restore_from="4"))
    whole = finetune(config_with(text, "whole", steps=8))
    for name in ("model", "optimizer"):
        file = f"checkpoints/step-00000008/{name}.safetensors"
        assert (Path(longer.folder) / file).read_bytes() == (Path(whole.folder) / file).read_bytes()
    assert [row["step"] for row in RunFolder(Path(longer.folder)).metrics.rows()] == [5, 6, 7, 8]
    again = finetune(config_with(text, steps=8, restore_from="4"))
    assert again == longer


def test_every_setting_that_does_not_fit_is_listed(short: RunResult, text: Path) -> None:
    folder = str(Path(short.folder) / "checkpoints" / "step-00000004")
    with pytest.raises(UserError, match=r"train.batch_size is 4, was 2; train.seed is 1, was 0\. Use the checkpoint's"):
        finetune(config_with(text, steps=8, batch_size=4, seed=1, keep_checkpoints=9, restore_from=folder))


def test_a_checkpoint_that_is_not_there_is_one_sentence(short: RunResult, text: Path) -> None:
    with pytest.raises(UserError, match=r"train.restore_from '77' is no checkpoint of a run named 'longer'"):
        finetune(config_with(text, steps=8, restore_from="77"))


def test_afresh_keeps_what_was_there(short: RunResult, text: Path) -> None:
    before = (Path(short.folder) / "metrics.jsonl").read_bytes()
    again = finetune(config_with(text, restore_from="fresh"))
    (kept,) = Workspace.current().runs.glob(f"{short.run}-until-*")
    assert (kept / "metrics.jsonl").read_bytes() == before == (Path(again.folder) / "metrics.jsonl").read_bytes()


def test_a_registry_uri_is_the_base_model_with_its_vocabulary() -> None:
    config = RunConfig.model_validate({"train": {"restore_from": "models:/demo@champion"}})
    assert (config.model.base, config.tokenizer.source) == ("models:/demo@champion", "base")


def test_a_run_that_was_made_with_another_default_is_not_gone_on_with(text: Path) -> None:
    """The id holds no defaults, so it is the same; the run's own record says what they were."""
    finished = finetune(config_with(text, "default"))
    folder = RunFolder(Path(finished.folder))
    known = folder.read("run")
    known["config"]["train"]["clip"] = 0.5
    folder.write("run", known)
    with pytest.raises(
        UserError, match=rf"{folder.id} was made with other settings, the defaults then: train.clip is 1.0, was 0.5"
    ):
        finetune(config_with(text, "default"))
    assert folder.state() == "finished"


def test_a_run_with_an_id_of_version_0_1_is_gone_on_with_unless_a_setting_is_another(
    text: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr("tasks.runs.start.run_id", run_id_of_0_1)
        earlier = RunFolder(Path(finetune(config_with(text, "earlier")).folder))
    shutil.rmtree(earlier.checkpoint_path(4))
    (earlier.path / "result.json").unlink()
    capsys.readouterr()
    assert finetune(config_with(text, "earlier")).run == earlier.id
    assert f"{earlier.id} goes on at step 2" in capsys.readouterr().out
    assert finetune(config_with(text, "earlier", clip=0.5)).run != earlier.id


def test_a_run_goes_on_with_kernels_of_another_level_and_says_and_records_it(
    text: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = level()
    if before == "none":
        pytest.skip("GPT2FLOW_KERNELS=none: there is no other level to go on with")
    folder = RunFolder(Path(finetune(config_with(text, "moved")).folder))
    assert folder.record.kernels == before
    (folder.path / "result.json").unlink()
    shutil.rmtree(folder.checkpoints / "step-00000004")
    monkeypatch.setenv("GPT2FLOW_KERNELS", "none")
    finetune(config_with(text, "moved"))
    assert (folder.record.kernels, folder.record.changes[-1].settings) == ("none", {"kernels": [before, "none"]})
    assert folder.record.changes[-1].step == 2
    said = " ".join(capsys.readouterr().out.split())
    assert f"computed with kernels of level {before}, and goes on with none from step 2" in said
