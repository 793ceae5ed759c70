"""A batch that does not fit is split, and the update stays the same."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from configs.errors import UserError
from configs.schema import TrainSettings
from gpt2core.checkpoints.checkpoint import restore, save_checkpoint
from gpt2core.machine.memory import is_out_of_memory
from gpt2core.model.config import GPT2Config
from gpt2core.model.gpt2 import GPT2
from gpt2core.store.token_store import TokenStore, TokenStream
from gpt2core.text.tokenizer import Tokenizer
from gpt2core.training.batches import Batches
from gpt2core.training.callback import Callback
from gpt2core.training.nshepperd_batches import Chunks, CompatBatches
from gpt2core.training.trainer import Trainer

SHORT_OF_MEMORY = """
import resource, sys
import psutil, torch
from configs.schema import TrainSettings
from gpt2core.model.config import GPT2Config
from gpt2core.memory.trial_run import make_trainer
from gpt2core.training.callback import Callback

torch.set_num_threads(1)
settings = TrainSettings(steps=2, batch_size=256, dtype="float32")
trainer = make_trainer(GPT2Config(300, 64, 64, 2, 2), settings, torch.device("cpu"))
class Saying(Callback):
    def on_batch_cut(self, batch_size, micro_batches):
        print(batch_size, micro_batches)

trainer.callbacks.append(Saying())
limit = psutil.Process().memory_info().vms + 60_000_000
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
trainer.run_until(2)
print("done", trainer.step)
"""


def make_trainer(store: TokenStore, batch_size: int, accumulate: int) -> Trainer:
    settings = TrainSettings(steps=6, batch_size=batch_size, accumulate=accumulate, learning_rate=1e-3, dtype="float32")
    batches = Batches(store.stream("train"), 16, batch_size, 0)
    return Trainer(GPT2(GPT2Config(300, 16, 16, 2, 2)).initialise(0), batches, settings)


class _Cuts(Callback):
    def __init__(self) -> None:
        self.heard: list[tuple[int, int]] = []

    def on_batch_cut(self, batch_size: int, micro_batches: int) -> None:
        self.heard.append((batch_size, micro_batches))


def test_a_process_short_of_memory_halves_its_batch_and_goes_on() -> None:
    done = subprocess.run([sys.executable, "-c", SHORT_OF_MEMORY], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    *splits, end = done.stdout.splitlines()
    assert splits[0] == "128 2"
    assert end == "done 2"


def test_smaller_batches_hold_the_same_windows_in_the_same_order(store: TokenStore) -> None:
    whole = Batches(store.stream("train"), 16, 12, 0)
    parts = whole.in_smaller_batches(3)
    for index in (0, 5, 400):
        joined = torch.cat([parts.at(3 * index + part)[0] for part in range(3)])
        assert torch.equal(whole.at(index)[0], joined)


@pytest.mark.parametrize("size", [8, 9, 7])
def test_a_run_whose_batch_is_split_on_the_way_ends_with_the_same_weights_but_for_rounding(
    store: TokenStore, size: int
) -> None:
    undisturbed, split = make_trainer(store, size, 2), make_trainer(store, size, 2)
    undisturbed.run_until(6)
    split.run_until(2)
    refuse_once(split)
    split.run_until(6)
    assert split.micro_batches > 2 and split.micro_batches * split.batches.batch_size == 2 * size
    for one, other in zip(undisturbed.model.parameters(), split.model.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=2e-5)


def test_a_run_that_was_split_and_stopped_goes_on_with_the_same_bits(
    store: TokenStore, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    undisturbed, saved = make_trainer(store, 8, 2), []
    for step in (3, 4, 5):
        undisturbed.run_until(step)
        saved.append(save_checkpoint(tmp_path, undisturbed, tokenizer, {}))
        if step == 4:
            refuse_once(undisturbed)
    undisturbed.run_until(6)
    assert undisturbed.batch_cuts == {4: 2}
    for checkpoint in (saved[0], saved[-1]):  # before the split, and behind it
        restored, cuts = make_trainer(store, 8, 2), _Cuts()
        restore(restored, checkpoint)
        restored.batch_cuts = dict(undisturbed.batch_cuts)
        restored.callbacks.append(cuts)
        restored.run_until(6)
        assert cuts.heard == [(4, 4)]
        assert all(map(torch.equal, restored.model.parameters(), undisturbed.model.parameters()))


def test_windows_as_nshepperd_draws_them_stay_so_in_smaller_batches() -> None:
    chunks = Chunks(TokenStream([np.arange(600, dtype=np.uint16)]), np.array([400, 200]))
    whole = CompatBatches(chunks, 16, 4, 0)
    joined = torch.cat([whole.in_smaller_batches(2).at(part)[1] for part in (6, 7)])
    assert torch.equal(whole.at(3)[1], joined)


def refuse_once(trainer: Trainer) -> None:
    """Let the next backward fail in its middle, as an allocation does."""

    def fail(*_: object) -> None:
        handle.remove()
        raise RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory")

    handle = trainer.model.h[0].mlp.register_full_backward_hook(fail)


def test_a_single_window_that_does_not_fit_is_one_sentence(store: TokenStore) -> None:
    trainer = make_trainer(store, 1, 1)
    refuse_once(trainer)
    with pytest.raises(UserError, match=r"A single window of 16 tokens does not fit into memory: raise"):
        trainer.run_until(1)


def test_other_errors_are_not_taken_for_a_lack_of_memory() -> None:
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory"))
    assert is_out_of_memory(MemoryError())
    assert not is_out_of_memory(RuntimeError("shapes do not fit"))
    assert not is_out_of_memory(ValueError("can't allocate memory"))
