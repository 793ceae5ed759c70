"""What a config leaves to the machine is settled before the run has an id, and found again by the same command."""

from pathlib import Path

import pytest

from configs.schema import RunConfig
from flows.finetune import finetune
from tasks.run_folder import RunFolder
from tasks.workspace import Workspace


@pytest.fixture
def text(tmp_path: Path) -> Path:
    """A text of its own, so that its runs are new."""
    path = tmp_path / "lines.txt"
    path.write_text("".join(f"The {i}th line says that {i} times {i} is {i * i}.\n\n" for i in range(400)))
    return path


def config(text: Path, **train: object) -> RunConfig:
    return RunConfig.model_validate(
        {
            "name": "settled",
            "data": {"source": str(text)},
            "tokenizer": {"vocab_size": 300},
            "model": {"n_ctx": 16, "n_embd": 16, "n_head": 2, "n_layer": 2},
            "train": {"warmup_steps": 2, **train},
            "evaluate": {"every": 50, "max_windows": 8, "max_new_tokens": 4, "lens": False},
            "registry": {"enabled": False},
        }
    )


def test_epochs_and_an_automatic_batch_become_numbers_that_the_same_command_finds_again(
    text: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Workspace.current().create()
    asked = config(text, epochs=0.5, batch_size="auto", tokens_per_step=512, memory_limit="3GB")
    result = finetune(asked)
    train = RunFolder(Path(result.folder)).read("run")["config"]["train"]
    assert train["batch_size"] * train["accumulate"] == 512 // 16
    assert train["epochs"] is None
    printed = capsys.readouterr().out
    assert f"{train['steps']:,} steps = {train['steps'] * 512:,} tokens = 0.5" in printed
    assert finetune(asked) == result
    assert "finished already" in capsys.readouterr().out


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
