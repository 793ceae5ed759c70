"""Optimizer state that several processes write into one checkpoint: all of it or none, and no process waits in vain."""

import errno
import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from configs.errors import UserError
from configs.schema import TrainSettings
from gpt2core.checkpoints.checkpoint import Checkpoint, find_damage, restore, take_snapshot, write_checkpoint
from gpt2core.checkpoints.moments import OthersMoments, moments_file, read_moments, write_for_the_first
from gpt2core.checkpoints.weights_history import find_weights, keep_weights
from gpt2core.distributed.messages import Messages, PeerLostError
from gpt2core.model.config import GPT2Config
from gpt2core.model.gpt2 import GPT2
from gpt2core.store.token_store import TokenStream
from gpt2core.text.tokenizer import Tokenizer
from gpt2core.training.batches import Batches
from gpt2core.training.trainer import Trainer

SIZE = 3
FILES = [moments_file(rank, SIZE) for rank in range(SIZE)]

Other = Callable[[Path, dict[str, torch.Tensor], Messages], None]


def new_trainer() -> Trainer:
    batches = Batches(TokenStream([torch.arange(500, dtype=torch.int32).numpy() % 50]), 16, 2, 0)
    settings = TrainSettings.model_validate({"steps": 4, "batch_size": 2, "device": "cpu"})
    return Trainer(GPT2(GPT2Config(50, 16, 32, 1, 2)).initialise(0), batches, settings)


@pytest.fixture(scope="module")
def trainer() -> Trainer:
    made = new_trainer()
    made.run_until(2)
    return made


def part_of(trainer: Trainer, rank: int) -> dict[str, torch.Tensor]:
    """What that process would keep."""
    moments = trainer.optimizer.tensors()
    return {name: moments[name] for place, name in enumerate(moments) if place % SIZE == rank or name == "step"}


def save(
    folder: Path, trainer: Trainer, tokenizer: Tokenizer, other: Other = write_for_the_first, ended: Any = dict
) -> Checkpoint:
    """By three processes, each a thread here; the last one writes as `other` does."""
    store = dist.HashStore()  # type: ignore[attr-defined]
    messages = [Messages(store, rank, SIZE, ended) for rank in range(SIZE)]

    def follow(rank: int) -> None:
        place = Path(messages[rank].listen()["folder"])
        (other if rank == SIZE - 1 else write_for_the_first)(place, part_of(trainer, rank), messages[rank])

    with ThreadPoolExecutor() as pool:
        others = OthersMoments(folder, messages[0])
        following = [pool.submit(follow, rank) for rank in range(1, SIZE)]
        snapshot = replace(take_snapshot(trainer, {}, others), moments=part_of(trainer, 0))
        try:
            return write_checkpoint(folder, snapshot, tokenizer)
        finally:
            for each in following:
                each.result()


def test_all_write_into_one_checkpoint_that_one_process_reads(trainer: Trainer, tokenizer: Tokenizer, tmp_path: Path) -> None:
    saved = save(tmp_path, trainer, tokenizer)
    assert find_damage(saved) == ""
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000002"]
    assert sorted(path.name for path in saved.path.glob("optimizer*")) == FILES
    assert set(FILES) < set(json.loads((saved.path / "manifest.json").read_text())["files"])
    again, moments = new_trainer(), trainer.optimizer.tensors()
    restore(again, saved)
    assert again.step == 2
    assert again.optimizer.tensors().keys() == moments.keys()
    assert all(torch.equal(tensor, moments[name]) for name, tensor in again.optimizer.tensors().items())


def test_a_process_reads_what_it_keeps_from_whoever_wrote_it(trainer: Trainer, tokenizer: Tokenizer, tmp_path: Path) -> None:
    saved, part, moments = save(tmp_path, trainer, tokenizer), new_trainer(), trainer.optimizer.tensors()
    part.optimizer.keep(set(part.optimizer.parameters[1::2]))
    found = read_moments(saved.path, part.optimizer, torch.device("cpu"))
    assert found.keys() == part.optimizer.own_names
    assert all(torch.equal(tensor, moments[name]) for name, tensor in found.items())


@pytest.mark.parametrize("file", FILES)
def test_a_damaged_part_is_found(file: str, trainer: Trainer, tokenizer: Tokenizer, tmp_path: Path) -> None:
    saved = save(tmp_path, trainer, tokenizer)
    whole = (saved.path / file).read_bytes()
    (saved.path / file).write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    assert file in find_damage(saved)
    (saved.path / file).unlink()
    assert file in find_damage(saved)


def test_a_sound_checkpoint_of_the_step_stays(trainer: Trainer, tokenizer: Tokenizer, tmp_path: Path) -> None:
    saved = save(tmp_path, trainer, tokenizer)
    before = (saved.path / "manifest.json").stat()
    save(tmp_path, trainer, tokenizer)
    assert (saved.path / "manifest.json").stat() == before
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000002"]


class Unreadable(dict[str, torch.Tensor]):
    """Tensors that cannot be written for this reason."""

    def __init__(self, reason: Exception) -> None:
        self._reason = reason

    def items(self) -> Any:
        raise self._reason


def write_failing(reason: Exception) -> Other:
    return lambda folder, _, messages: write_for_the_first(folder, Unreadable(reason), messages)


def test_what_another_process_cannot_write_is_no_checkpoint(trainer: Trainer, tokenizer: Tokenizer, tmp_path: Path) -> None:
    full = write_failing(OSError(errno.ENOSPC, "No space left on device"))
    with pytest.raises(UserError, match=rf"The disk is full at .*/{FILES[-1]}") as raised:
        save(tmp_path, trainer, tokenizer, full)
    cause = raised.value.__cause__
    assert isinstance(cause, OSError)
    assert cause.errno == errno.ENOSPC
    assert not list(tmp_path.iterdir())


def test_a_mistake_in_another_process_is_told(trainer: Trainer, tokenizer: Tokenizer, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="a mistake"):
        save(tmp_path, trainer, tokenizer, write_failing(ValueError("a mistake")))
    assert not list(tmp_path.iterdir())


def test_a_process_that_is_lost_meanwhile_is_not_waited_for(trainer: Trainer, tokenizer: Tokenizer, tmp_path: Path) -> None:
    lost = dict[int, str]()

    def is_killed(*_: Any) -> None:
        lost[SIZE - 1] = "was killed by SIGKILL"
        lost[1] = "was killed by SIGKILL"  # none of them says that he is well

    with pytest.raises(PeerLostError, match=r"Process .* was killed by SIGKILL"):
        save(tmp_path, trainer, tokenizer, is_killed, lambda: lost)
    assert not list(tmp_path.iterdir())


def test_weights_that_stay_take_no_part_along(trainer: Trainer, tokenizer: Tokenizer, tmp_path: Path) -> None:
    keep_weights(save(tmp_path, trainer, tokenizer))
    (kept,) = find_weights(tmp_path)
    assert not list(kept.path.glob("optimizer*"))
    assert find_damage(kept) == ""
