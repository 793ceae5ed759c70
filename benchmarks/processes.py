"""Updates by two processes of one thread each, their gradients added exactly or fast, beside one process of two threads.

python -m benchmarks.processes [SIZE] [ROUNDS] [WINDOWS] [CONTEXT]        # 124M, 5, 4, 256
"""

from __future__ import annotations

import os
import socket
import statistics
import subprocess
import sys
import time
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING

from tasks.processes.started_processes import loopback

if TYPE_CHECKING:
    from gpt2core.distributed.process_group import ProcessGroup
    from gpt2core.training.trainer import Trainer

HOST = "127.0.0.1"
ACCUMULATE = 2
WAYS = ("exact", "fast", "alone")
PATIENCE = 3600.0  # seconds


def main(size: str, rounds: int, windows: int, context: int) -> None:
    with socket.create_server((HOST, 0)) as probe:
        port = probe.getsockname()[1]
    arguments = [size, str(rounds), str(windows), str(context), str(port)]
    other = subprocess.Popen([sys.executable, "-m", "benchmarks.processes", *arguments, "1"])
    seconds = _measure(size, rounds, windows, context, port, 0)
    other.wait()
    print(f"GPT-2 {size}, {ACCUMULATE} batches of {windows} x {context} an update, {rounds} rounds, seconds an update:")
    for way in WAYS:
        print(f"  {way:6} median {statistics.median(seconds[way]):7.2f}   ({_listed(seconds[way])})")
    for one, by in (("exact", "fast"), ("exact", "alone"), ("fast", "alone")):
        ratios = [a / b for a, b in zip(seconds[one], seconds[by], strict=True)]
        print(f"  {one} takes {statistics.median(ratios):.3f} x the time of {by}   ({_listed(ratios)})")


def _measure(size: str, rounds: int, windows: int, context: int, port: int, rank: int) -> dict[str, list[float]]:
    """Seconds of each round of each way; the second process waits while the first one is alone."""
    import torch
    import torch.distributed as dist

    from gpt2core.distributed.messages import Messages
    from gpt2core.distributed.process_group import ProcessGroup

    store = dist.TCPStore(HOST, port, 2, rank == 0, timedelta(seconds=PATIENCE))
    os.environ["GLOO_SOCKET_IFNAME"] = loopback()
    group = ProcessGroup(Messages(store, rank, 2), PATIENCE)
    trainers = {way: _trainer(way, size, windows, context, group) for way in (WAYS[:2] if rank else WAYS)}
    seconds: dict[str, list[float]] = {way: [] for way in WAYS}
    for number in range(rounds + 1):  # the first one warms up
        for way in WAYS:
            torch.set_num_threads(2 if way == "alone" else 1)
            group.any(False)
            begun = time.perf_counter()
            if way in trainers:
                trainers[way].run_until(number + 1)
            if number:
                seconds[way].append(time.perf_counter() - begun)
            group.any(False)
    group.close()
    return seconds


def _trainer(way: str, size: str, windows: int, context: int, group: ProcessGroup) -> Trainer:
    import torch

    from configs.schema import TrainSettings
    from gpt2core.distributed.process_group import ALONE
    from gpt2core.model.config import RELEASED_SIZES
    from gpt2core.model.gpt2 import GPT2
    from gpt2core.store.token_store import TokenStream
    from gpt2core.training.batches import Batches
    from gpt2core.training.trainer import Trainer

    config = replace(RELEASED_SIZES[size], n_ctx=context)
    given = {"batch_size": windows, "accumulate": ACCUMULATE, "reduce": "fast" if way == "fast" else "exact", "device": "cpu"}
    tokens = torch.randint(config.n_vocab, (200_000,), generator=torch.Generator().manual_seed(0), dtype=torch.int32)
    batches = Batches(TokenStream([tokens.numpy()]), context, windows, 0)
    settings = TrainSettings.model_validate({"steps": 1000, **given})
    return Trainer(GPT2(config).initialise(0), batches, settings, group=ALONE if way == "alone" else group)


def _listed(values: list[float]) -> str:
    return ", ".join(f"{value:.2f}" for value in values)


if __name__ == "__main__":
    given = (*sys.argv[1:], *("124M", "5", "4", "256")[len(sys.argv) - 1 :])
    if len(given) > 4:
        _measure(given[0], *map(int, given[1:6]))
    else:
        main(given[0], *map(int, given[1:4]))
