"""What a config leaves to the machine is settled before the run has an id, and found again by the same command."""

import os
import re
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
import yaml
from tiny import tiny_run

from configs.errors import UserError
from configs.schema import RunConfig
from flows.finetune import finetune
from gpt2core.machine import memory
from tasks.resolve_settings import check_choices, require_memory
from tasks.runs.identity import asked_ids
from tasks.runs.run_folder import RunFolder
from tasks.workspace.folders import Workspace


@pytest.fixture
def text(tmp_path: Path) -> Path:
    """A text of its own, so that its runs are new."""
    path = tmp_path / "lines.txt"
    path.write_text("".join(f"The {i}th line says that {i} times {i} is {i * i}.\n\n" for i in range(400)))
    return path


def config(text: Path, **train: object) -> RunConfig:
    evaluate = {"every": 50, "max_windows": 8, "max_new_tokens": 4}
    return tiny_run("settled", text, model={"dropout": 0}, train=train, evaluate=evaluate)


def test_epochs_and_an_automatic_batch_become_numbers_that_the_same_command_finds_again(
    text: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Workspace.current().create()
    asked = config(text, epochs=0.5, batch_size="auto", tokens_per_step=512, memory_limit="3GB")
    result = finetune(asked)
    folder = RunFolder(Path(result.folder))
    train = folder.read("run")["config"]["train"]
    assert train["batch_size"] * train["accumulate"] == 512 // 16
    assert train["epochs"] is None
    printed = capsys.readouterr().out
    assert f"{train['steps']:,} steps = {train['steps'] * 512:,} tokens = 0.5" in printed
    assert finetune(asked) == result
    assert "finished already" in capsys.readouterr().out
    known = folder.read("run")
    folder.write("run", {**known, "asked": asked_ids(asked, known["store"], "")[1]})
    assert finetune(asked) == result


def test_hours_become_steps_that_the_same_command_finds_again_however_fast_the_machine_is_then(
    text: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Workspace.current().create()
    asked = config(text, hours=2e-5)
    result = finetune(asked)
    known = RunFolder(Path(result.folder)).read("run")
    assert (known["config"]["train"]["steps"], known["config"]["train"]["hours"]) == (result.steps, None)
    assert f"{result.steps:,} of them about" in capsys.readouterr().out
    assert finetune(asked) == result
    printed = capsys.readouterr().out
    assert "finished already" in printed
    assert "trying out" not in printed


@pytest.mark.parametrize(
    ("train", "sentence"),
    [
        ({"trainable": "h.2.*"}, r"'h\.2\.\*' matches no parameter: .* h\.1\.\* \(the last block\)"),
        ({"trainable": "wte.*", "optimizer": "muon"}, "muon is for the blocks' matrices"),
        ({"device": "cuda:99"}, "'cuda:99' is not available here"),
    ],
)
def test_what_cannot_be_trained_is_refused_before_any_text_is_read(
    train: dict[str, str], sentence: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=sentence):
        check_choices(config(tmp_path / "nowhere.txt", **train), None)


def test_adapters_are_checked_by_their_targets_and_not_by_a_rank_of_another_model(golden: Path) -> None:
    base = golden / "openai-tiny" / "models" / "tiny"
    values = config(base).model_dump() | {"model": {"base": str(base)}, "tokenizer": {"source": "base"}}
    for targets in ("c_attn", "wte"):
        values["train"] |= {"trainable": "lora", "lora": {"targets": targets}}
        adapters = RunConfig.model_validate(values)
        if targets == "c_attn":
            check_choices(adapters, base)
        else:
            with pytest.raises(UserError, match=r"train\.lora\.targets 'wte' is no projection"):
                check_choices(adapters, base)


def test_a_run_that_does_not_fit_is_refused_before_memory_fills(text: Path, tmp_path: Path) -> None:
    asked = config(text, steps=4, batch_size=50_000_000).model_dump(exclude_unset=True)
    (tmp_path / "large.yaml").write_text(yaml.safe_dump(asked))
    with (tmp_path / "said").open("w") as said:
        command = [sys.executable, "-m", "flows.cli", "run", str(tmp_path / "large.yaml")]
        running = psutil.Popen(command, stdout=said, stderr=subprocess.STDOUT, env=os.environ)
        most = 0
        while running.poll() is None:
            with suppress(psutil.Error):
                most = max(most, running.memory_info().rss)
            time.sleep(0.02)
    found = (tmp_path / "said").read_text()
    assert running.returncode == 2, found
    assert most < 2 * 10**9
    sentence = found.splitlines()[-1]
    assert re.fullmatch(
        r"gpt2flow: Training needs [\d.,]+ [GT]B and may use [\d.]+ GB\. "
        r"Use train\.batch_size \d+ with train\.accumulate \d+ \(or train\.batch_size auto\)\.",
        sentence,
    )


def test_a_run_that_went_on_before_is_warned_and_a_new_one_refused(
    text: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    Workspace.current().create()
    done = finetune(config(text, steps=4, batch_size=4, checkpoint_every=2))
    (Path(done.folder) / "result.json").unlink(missing_ok=True)
    held = psutil.Process().memory_info().rss
    monkeypatch.setattr(memory, "group_limits", lambda: iter([(held + 1000, held)]))  # a container that has no more
    require_memory(RunFolder(Path(done.folder)), config(text, steps=4, batch_size=4), None, _Vocabulary())  # type: ignore[arg-type]
    assert "it goes on all the same, since it did so before" in capsys.readouterr().out
    new = RunFolder(Path(done.folder).with_name("new"))
    with pytest.raises(
        UserError, match=r"Training needs \d+\.\d\d GB and may use \d+\.\d\d GB\. Not even a single window fits"
    ):
        require_memory(new, config(text, steps=4, batch_size=4), None, _Vocabulary())  # type: ignore[arg-type]


class _Vocabulary:
    n_vocab = 300
