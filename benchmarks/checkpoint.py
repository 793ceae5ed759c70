"""How long saving holds training: beside training against a synchronous torch.save of the same state, interleaved.

python -m benchmarks.checkpoint [SIZE] [ROUNDS]        # 124M, 3
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from configs.schema import TrainSettings
from gpt2core.checkpoints.background_saver import BackgroundSaver
from gpt2core.checkpoints.checkpoint import Snapshot, find_checkpoints, find_damage, take_snapshot, write_checkpoint
from gpt2core.model.config import RELEASED_SIZES
from gpt2core.model.gpt2 import GPT2
from gpt2core.store.token_store import TokenStream
from gpt2core.text.tokenizer import train_tokenizer
from gpt2core.training.batches import Batches
from gpt2core.training.trainer import Trainer

CONTEXT = 128  # tokens in a window: a short step is the harder case, since copying has only the step's time


def main(size: str, rounds: int) -> None:
    trainer = trainer_of(size)
    trainer.run_until(2)
    tokenizer = train_tokenizer(["a text"], 257)
    held, synchronous, verified, written, stopped = [], [], [], [], []
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as scratch:
        folder = Path(scratch)
        saver = TimedSaver(trainer, lambda snapshot: _write(folder, snapshot, tokenizer))
        for _ in range(rounds):
            synchronous.append(_timed(lambda: _torch_save(trainer, folder / "state.pt")))
            undisturbed = _timed(lambda: trainer.run_until(trainer.step + 1))
            started, waited = time.perf_counter(), saver.waited
            held_by_call = _timed(lambda: saver.save(take_snapshot(trainer, {})))
            step = _timed(lambda: trainer.run_until(trainer.step + 1))
            held.append(held_by_call + saver.waited - waited)
            saver.wait()
            written.append(time.perf_counter() - started)
            trainer.run_until(trainer.step + 1)
            stopped.append(_timed(lambda: _save_and_wait(saver, trainer)))
            verified.append(_timed(lambda: find_damage(find_checkpoints(folder)[-1])))
            print(f"step alone {undisturbed:.2f} s, step beside saving {step:.2f} s", flush=True)
    share = statistics.median(held) / statistics.median(synchronous)
    print(f"GPT-2 {size}, {12 * trainer.model.parameter_count() / 1e9:.2f} GB of state, medians of {rounds}:")
    print(f"  torch.save                    {statistics.median(synchronous):7.3f} s")
    print(f"  training thread held          {statistics.median(held):7.3f} s   ({share:.1%} of torch.save)")
    print(f"  until durable, beside a step  {statistics.median(written):7.3f} s")
    print(f"  until durable after SIGTERM   {statistics.median(stopped):7.3f} s   (no step runs beside)")
    print(f"  verified on load              {statistics.median(verified):7.3f} s")


class TimedSaver(BackgroundSaver):
    """Adds up the seconds for which updates waited for copies."""

    waited = 0.0

    def before_update(self) -> None:
        """Wait as ever, with an eye on the clock."""
        self.waited += _timed(super().before_update)


def _save_and_wait(saver: BackgroundSaver, trainer: Trainer) -> None:
    saver.save(take_snapshot(trainer, {}))
    saver.wait()


def _write(folder: Path, snapshot: Snapshot, tokenizer: object) -> None:
    write_checkpoint(folder, snapshot, tokenizer)  # type: ignore[arg-type]


def _torch_save(trainer: Trainer, file: Path) -> None:
    torch.save(
        {
            "model": trainer.model.state_dict(),
            "optimizer": [optimizer.state_dict() for optimizer in trainer.optimizer.optimizers],
        },
        file,
    )


def trainer_of(size: str) -> Trainer:
    torch.manual_seed(0)
    settings = TrainSettings(steps=1000, batch_size=1, device="cpu")
    with torch.device("meta"):
        shape = RELEASED_SIZES[size]
    model = GPT2(type(shape)(shape.n_vocab, CONTEXT, shape.n_embd, shape.n_head, shape.n_layer)).initialise(0)
    stream = TokenStream([torch.randint(0, 50257, (100_000,)).to(torch.int32).numpy()])
    return Trainer(model, Batches(stream, CONTEXT, 1, 0), settings)


def _timed(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


if __name__ == "__main__":
    arguments = sys.argv[1:]
    main(arguments[0] if arguments else "124M", int(arguments[1]) if len(arguments) > 1 else 3)
