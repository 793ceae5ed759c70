"""Compiled blocks compute what the plain ones do, and a resumed process goes on with the same bits."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from configs.errors import UserError
from configs.schema import TrainSettings
from gpt2core.model.config import GPT2Config
from gpt2core.model.gpt2 import GPT2, run_block
from gpt2core.training.compilation import LONG_RUN, choose_compilation

CPU, CUDA = torch.device("cpu"), torch.device("cuda")

TRAIN = """
import sys
from pathlib import Path
import numpy as np, torch
from configs.schema import TrainSettings
from gpt2core.training.batches import Batches
from gpt2core.checkpoints.checkpoint import find_checkpoints, restore, save_checkpoint
from gpt2core.training.compilation import keep_compiled_code
from gpt2core.model.config import GPT2Config
from gpt2core.model.gpt2 import GPT2
from gpt2core.store.token_store import TokenStream
from gpt2core.text.tokenizer import train_tokenizer
from gpt2core.training.callback import History
from gpt2core.training.trainer import Trainer

folder, until, compiled = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3] == "compiled"
keep_compiled_code(folder / "compiled")
settings = TrainSettings(steps=8, batch_size=2, warmup_steps=2, learning_rate=1e-2, compile=compiled, recompute_blocks=1)
text = TokenStream([(np.arange(5000) ** 2 // 7 % 300).astype(np.int32)])
trainer = Trainer(GPT2(GPT2Config(300, 16, 64, 2, 2, 0.1)).initialise(0), Batches(text, 16, 2, 0), settings)
for checkpoint in find_checkpoints(folder)[-1:]:
    restore(trainer, checkpoint)
history = History()
trainer.callbacks.append(history)
trainer.run_until(until)
save_checkpoint(folder, trainer, train_tokenizer(["some text"], 257), {})
print(*history.losses)
"""


def train(folder: Path, until: int, how: str = "compiled") -> list[float]:
    command = [sys.executable, "-c", TRAIN, str(folder), str(until), how]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return [float(loss) for loss in done.stdout.split()]


@pytest.mark.slow
def test_a_compiled_run_that_goes_on_in_another_process_ends_with_the_same_bits(tmp_path: Path) -> None:
    straight = train(tmp_path / "straight", 6)
    assert train(tmp_path / "stopped", 3) + train(tmp_path / "stopped", 6) == straight
    files = [f"step-00000006/{name}.safetensors" for name in ("model", "optimizer")]
    assert all((tmp_path / "straight" / f).read_bytes() == (tmp_path / "stopped" / f).read_bytes() for f in files)
    assert train(tmp_path / "plain", 1, "plain")[0] == pytest.approx(straight[0], rel=1e-2)  # dropout draws other masks


def test_auto_compiles_long_runs_on_cuda_and_nothing_on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gpt2core.training.compilation.find_spec", lambda name: object())
    assert not choose_compilation("auto", CPU, 10**6)
    assert choose_compilation("auto", CUDA, LONG_RUN)
    assert not choose_compilation("auto", CUDA, LONG_RUN - 1)
    assert choose_compilation(True, CUDA, 1)
    assert not choose_compilation(False, CUDA, 10**6)


def test_compiling_without_a_compiler_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match=r"train.compile needs a C\+\+ compiler on cpu: install it, or"):
        choose_compilation(True, CPU, 1)
    assert not choose_compilation("auto", CPU, 10**6)


def test_what_is_compiled_is_for_training_only() -> None:
    model = GPT2(GPT2Config(50, 8, 16, 2, 2)).initialise(0)
    seen = []
    model.training_block = lambda *values: seen.append(1) or run_block(*values)  # type: ignore[func-returns-value]
    model.eval()(torch.arange(8)[None])
    assert not seen
    model.train()(torch.arange(8)[None])
    assert len(seen) == 2


def test_the_setting_is_read_from_words() -> None:
    assert [TrainSettings.model_validate({"compile": value}).compile for value in ("auto", True, "true", "false")] == [
        "auto", True, True, False,
    ]  # fmt: skip
