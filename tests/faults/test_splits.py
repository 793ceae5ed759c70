"""Memory runs out in the middle of a run, and the run is killed as well: it goes on in the parts that it was split into."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file
from tiny import tiny_run

from configs.schema import RunConfig
from gpt2core.checkpoints.checkpoint import find_checkpoints
from tasks.runs.run_folder import RunFolder
from tasks.workspace.folders import Workspace

SHORT_OF_MEMORY = """
import os, signal, sys
from gpt2core.training.trainer import Trainer
short, killed = int(sys.argv.pop(1)), int(sys.argv.pop(1))
gradient, accumulate = Trainer.gradient, Trainer._accumulate
def dying(trainer):
    if trainer.step == killed:
        os.kill(os.getpid(), signal.SIGKILL)
    return gradient(trainer)
def allocating(trainer, part, is_first):
    if trainer.step == short and part == 1 and trainer.batches.batch_size > 2:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
    return accumulate(trainer, part, is_first)
Trainer.gradient, Trainer._accumulate = dying, allocating
from flows.cli.main import main
main()
"""
NEVER = -1


def config(name: str, text: Path) -> RunConfig:
    train = {"steps": 12, "batch_size": 4, "accumulate": 2, "checkpoint_every": 3}
    return tiny_run(name, text, train=train, evaluate={"every": 6, "max_new_tokens": 4})


def run(settings: RunConfig, file: Path, short: int, killed: int) -> subprocess.CompletedProcess[str]:
    file.write_text(yaml.safe_dump(settings.model_dump(mode="json")))
    command = [sys.executable, "-c", SHORT_OF_MEMORY, str(short), str(killed), "run", str(file)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=600, env=os.environ)


def weights_at_the_end(folder: RunFolder) -> dict[str, torch.Tensor]:
    last = find_checkpoints(folder.checkpoints)[-1]
    assert last.step == 12
    return {**load_file(last.path / "model.safetensors"), **load_file(last.path / "optimizer.safetensors")}


@pytest.mark.slow
def test_a_run_that_was_split_and_killed_ends_as_one_that_was_only_split(text: Path, tmp_path: Path) -> None:
    """Killed before the first checkpoint behind the split, and behind it; then there is memory again."""
    file, found = tmp_path / "run.yaml", []
    for name, killed in (("split-only", NEVER), ("split-killed", 5), ("split-killed-later", 7)):
        settings = config(name, text)
        first = run(settings, file, short=4, killed=killed)
        assert "memory" in first.stdout and "4 x 2 a step" in first.stdout, first.stdout + first.stderr
        if killed != NEVER:
            assert first.returncode == -signal.SIGKILL
            again = run(settings, file, short=NEVER, killed=NEVER)
            assert again.returncode == 0, again.stdout
            assert "4 x 2 a step" in again.stdout
        (folder,) = Workspace.current().runs.glob(f"{name}-*")
        found.append(weights_at_the_end(RunFolder(folder)))
    for other in found[1:]:
        assert other.keys() == found[0].keys()
        assert all(torch.equal(other[key], found[0][key]) for key in other)
