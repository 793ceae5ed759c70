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


def config(text: Path) -> RunConfig:
    return RunConfig.model_validate(
        {
            "name": "settled",
            "data": {"source": str(text)},
            "tokenizer": {"vocab_size": 300},
            "model": {"n_ctx": 16, "n_embd": 16, "n_head": 2, "n_layer": 2},
            "train": {"epochs": 0.5, "batch_size": "auto", "tokens_per_step": 512, "memory_limit": "3GB", "warmup_steps": 2},
            "evaluate": {"every": 50, "max_windows": 8, "max_new_tokens": 4},
            "registry": {"enabled": False},
        }
    )


def test_epochs_and_an_automatic_batch_become_numbers_that_the_same_command_finds_again(
    text: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Workspace.current().create()
    result = finetune(config(text))
    train = RunFolder(Path(result.folder)).read("run")["config"]["train"]
    assert train["batch_size"] * train["accumulate"] == 512 // 16
    assert train["epochs"] is None
    printed = capsys.readouterr().out
    assert f"{train['steps']:,} steps = {train['steps'] * 512:,} tokens = 0.5" in printed
    assert finetune(config(text)) == result
    assert "finished already" in capsys.readouterr().out
