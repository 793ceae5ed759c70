"""Measures real updates of a model with few blocks, in a process of its own: what they take in memory and time here.

Products, attention and loss take memory of their own inside the machine's libraries, and the allocator wastes some; both depend
on the sizes of a block and not on how many there are. So what few blocks show holds for all, even of a model that would not
fit. A small model is tried out whole. `python -m gpt2core.memory.trial_run` reads a job as JSON and answers as JSON.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path

import psutil
import torch
from torch import Tensor

from configs.errors import UserError
from configs.schema import TrainSettings
from gpt2core.machine.devices import choose_device
from gpt2core.machine.memory import is_out_of_memory
from gpt2core.memory.dry_run import rehearse
from gpt2core.memory.workload import Workload
from gpt2core.model.config import GPT2Config
from gpt2core.model.gpt2 import GPT2
from gpt2core.training.callback import Callback
from gpt2core.training.compilation import choose_compilation
from gpt2core.training.trainer import Trainer

UPDATES = 4
UPDATES_OF_LARGE = 3
WARM_UP = 2  # updates that fill caches and allocate moments, and are not timed
FEW_BLOCKS = (2, 4)  # of a large model, that are tried out for its memory and its time
FORWARD_SHARE = 1 / 3  # of a block's time, which recomputing takes again
OUT_OF_MEMORY = 3  # exit code
SMALL = 800_000_000
"""Bytes of tensors up to which a model is tried out whole, which takes seconds: the allocator's waste is a large part of
what it needs, and a small difference in sizes changes it."""


@dataclass(frozen=True)
class Measured:
    """The most memory that updates took beside the program itself, in bytes, and the seconds of one, by clock and processor."""

    peak: int
    seconds: float
    processor: float


def measure(work: Workload) -> Measured | None:
    """Make some updates of this size on random tokens in a fresh process; None where the memory does not suffice for them."""
    accumulate = min(2, work.settings.accumulate)
    job = {"config": asdict(work.config), "device": str(work.device), "mask_documents": work.mask_documents}
    length = UPDATES if is_small(work) else UPDATES_OF_LARGE
    like = work.with_length(length).with_settings(accumulate=accumulate, memory_limit=None, compile=_is_compiled(work))
    found = _measure(json.dumps(job), like.settings.model_dump_json())
    share = work.settings.accumulate / accumulate
    return found and Measured(found.peak, found.seconds * share, found.processor * share)


def _is_compiled(work: Workload) -> bool:
    """Whether the run itself will be, which a trial alone would be too short for."""
    return choose_compilation(work.settings.compile, work.device, work.settings.steps * work.settings.accumulate)


@lru_cache
def _measure(job: str, settings: str) -> Measured | None:
    command = [sys.executable, "-m", "gpt2core.memory.trial_run"]
    done = subprocess.run(command, input=f"{job}\n{settings}", capture_output=True, text=True, check=False)
    if done.returncode in (OUT_OF_MEMORY, -9):
        return None
    if done.returncode:
        raise UserError(f"A trial update failed: {(done.stderr.splitlines() or ['no reason given'])[-1]}")
    return Measured(**json.loads(done.stdout.splitlines()[-1]))


def with_blocks(work: Workload, blocks: int) -> Workload:
    """The same work with fewer blocks, of which one is recomputed where any is."""
    recomputed = min(work.settings.recompute_blocks, blocks - 1)
    return replace(work.with_settings(recompute_blocks=recomputed), config=replace(work.config, n_layer=blocks))


def is_small(work: Workload) -> bool:
    """Whether the whole model can be tried out in seconds."""
    return rehearse(work).peak <= SMALL


def seconds_per_update(work: Workload) -> float | None:
    """Seconds of an update, of a large model from some of two and four blocks, as its memory; None where those do not fit."""
    if is_small(work):
        found = measure(work)
        return found.seconds if found else None
    few, more = (with_blocks(work, min(blocks, work.config.n_layer)) for blocks in FEW_BLOCKS)
    less, longer = measure(few), measure(more)
    if less is None or longer is None:
        return None
    beside = _passes(more) - _passes(few)
    a_block = max(0.0, longer.seconds - less.seconds) / beside if beside else 0.0
    return longer.seconds + a_block * (_passes(work) - _passes(more))


def _passes(work: Workload) -> float:
    """Blocks, those that are recomputed counted with their second forward pass."""
    return work.config.n_layer + FORWARD_SHARE * work.settings.recompute_blocks


class RandomBatches:
    """Batches of random tokens."""

    def __init__(self, config: GPT2Config, batch_size: int) -> None:
        self._config = config
        self.batch_size = batch_size

    def in_smaller_batches(self, factor: int) -> RandomBatches:
        """Batches of a `factor`-th of the size."""
        return RandomBatches(self._config, self.batch_size // factor)

    def at(self, _: int) -> tuple[Tensor, Tensor]:
        """Inputs and targets int64 [B, T]."""
        tokens = torch.randint(self._config.n_vocab, (self.batch_size, self._config.n_ctx + 1))
        return tokens[:, :-1], tokens[:, 1:]


def make_trainer(config: GPT2Config, settings: TrainSettings, device: torch.device, mask_documents: bool = False) -> Trainer:
    """A trainer of random weights on random tokens."""
    model = GPT2(config).initialise(0).to(device)
    model.separator = 0 if mask_documents else None
    return Trainer(model, RandomBatches(config, settings.batch_size), settings)  # type: ignore[arg-type]


def resident_bytes(device: torch.device) -> int:
    """Memory that this process holds: in the machine, or of the accelerator where that is what trains."""
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device)
    return int(psutil.Process().memory_info().rss)


def peak_bytes(device: torch.device) -> int:
    """The most that this process ever held."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    status = Path("/proc/self/status")
    if status.exists():  # what Linux answers to getrusage begins with the peak of the process that started this one
        return int(re.search(r"VmHWM:\s+(\d+) kB", status.read_text(encoding="ascii"))[1]) * 1024  # type: ignore[index]
    import resource  # not on every system

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def load_libraries(settings: TrainSettings, device: torch.device) -> None:
    """Make an update of a tiny model, so that the code it runs is in memory already."""
    settings = settings.model_copy(update={"batch_size": 2, "recompute_blocks": 1, "trainable": ["all"], "accumulate": 1})
    make_trainer(GPT2Config(256, 64, 256, 4, 2), settings, device).gradient()


class _EndOutOfMemory(Callback):
    """A batch that has to be cut does not fit, and nothing else was asked."""

    def on_batch_cut(self, *_: int) -> None:
        sys.exit(OUT_OF_MEMORY)


def main() -> None:
    """Do the job on standard input."""
    job, settings_line = sys.stdin.read().splitlines()
    values, settings = json.loads(job), TrainSettings.model_validate_json(settings_line)
    config, device = GPT2Config(**values["config"]), choose_device(values["device"])
    load_libraries(settings, device)
    before = resident_bytes(device)
    seconds, processor = [], []
    try:
        trainer = make_trainer(config, settings, device, values["mask_documents"])
        trainer.callbacks.append(_EndOutOfMemory())
        for step in range(1, settings.steps + 1):
            started, computed = time.perf_counter(), time.process_time()
            trainer.run_until(step)
            seconds.append(time.perf_counter() - started)
            processor.append(time.process_time() - computed)
    except (RuntimeError, MemoryError) as error:
        if is_out_of_memory(error):
            sys.exit(OUT_OF_MEMORY)
        raise
    fastest, least = min(seconds[WARM_UP:]), min(processor[WARM_UP:])
    print(json.dumps({"peak": peak_bytes(device) - before, "seconds": fastest, "processor": least}))


if __name__ == "__main__":
    main()
