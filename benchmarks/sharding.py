"""What each of several processes holds and an update takes, where they share out nothing, the optimizer's state, or the model.

    python -m benchmarks.sharding                               # 124M, 2 processes of one thread, 3 rounds
    python -m benchmarks.sharding --size 355M --processes 4

Every way of sharing is tried by processes of their own, round after round. The peak is that of the first process, without what
it held before there was a model, beside what `gpt2flow plan` foresees of tensors.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import time
from dataclasses import replace
from datetime import timedelta

from tasks.processes.started_processes import loopback

HOST = "127.0.0.1"
WAYS = ("none", "optimizer", "model")
UPDATES = 3
PATIENCE = 1800.0  # seconds


def main(given: argparse.Namespace) -> None:
    found: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
    for _ in range(given.rounds):
        for way in WAYS:
            found[way].append(_by_processes(given, way))
    print(f"GPT-2 {given.size}, {given.processes} processes, each 2 batches of {given.windows} x {given.context} an update:")
    print(f"{'shared out':12}{'foreseen MB':>13}{'peak MB':>22}{'ratio':>8}{'s an update':>24}{'times none':>12}")
    for way, rounds in found.items():
        peaks, seconds = ([row[name] for row in rounds] for name in ("peak", "seconds"))
        foreseen, peak = rounds[0]["foreseen"], statistics.median(peaks)
        ratio = statistics.median(own / none["seconds"] for own, none in zip(seconds, found["none"], strict=True))
        print(f"{way:12}{foreseen:13.0f}{_spread(peaks, 0):>22}{foreseen / peak:8.3f}{_spread(seconds, 2):>24}{ratio:12.2f}")


def _spread(values: list[float], digits: int) -> str:
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f}-{max(values):.{digits}f})"


def _by_processes(given: argparse.Namespace, way: str) -> dict[str, float]:
    with socket.create_server((HOST, 0)) as probe:
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "benchmarks.sharding", *sys.argv[1:], "--way", way, "--port", str(port), "--rank"]
    processes = [subprocess.Popen([*command, str(rank)], stdout=subprocess.PIPE, text=True) for rank in range(given.processes)]
    outputs = [process.communicate()[0] for process in processes]
    assert not any(process.returncode for process in processes)
    return dict(json.loads(outputs[0].splitlines()[-1]))


def _measure(given: argparse.Namespace) -> None:
    import torch
    import torch.distributed as dist

    from configs.schema import TrainSettings
    from gpt2core.distributed.messages import Messages
    from gpt2core.distributed.process_group import ProcessGroup
    from gpt2core.memory.plan import predict
    from gpt2core.memory.trial_run import RandomBatches, load_libraries, peak_bytes, resident_bytes
    from gpt2core.memory.workload import Workload
    from gpt2core.model.config import RELEASED_SIZES
    from gpt2core.model.gpt2 import GPT2
    from gpt2core.training.trainer import Trainer

    torch.set_num_threads(1)
    os.environ["GLOO_SOCKET_IFNAME"], cpu = loopback(), torch.device("cpu")
    config = replace(RELEASED_SIZES[given.size], n_ctx=given.context)
    shared = {"processes": given.processes, "shard": given.way, "accumulate": 2 * given.processes}
    settings = TrainSettings.model_validate({"steps": 10, "batch_size": given.windows, "device": "cpu", **shared})
    foreseen = predict(Workload(config, settings, cpu), 0, saves_beside=False) if given.rank == 0 else None
    load_libraries(settings, cpu)
    store = dist.TCPStore(HOST, given.port, given.processes, given.rank == 0, timedelta(seconds=PATIENCE))
    group = ProcessGroup(Messages(store, given.rank, given.processes), PATIENCE)
    before = resident_bytes(cpu)
    batches = RandomBatches(config, given.windows)
    trainer = Trainer(GPT2(config).initialise(0), batches, settings, group=group)  # type: ignore[arg-type]
    begun = time.perf_counter()
    for step in range(1, UPDATES + 1):
        begun = time.perf_counter()
        trainer.run_until(step)
    seconds, peak = time.perf_counter() - begun, peak_bytes(cpu) - before
    group.any(False)
    group.close()
    print(json.dumps({"peak": peak / 1e6, "seconds": seconds, "foreseen": foreseen.peak / 1e6 if foreseen else 0.0}))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="124M")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--windows", type=int, default=4)
    parser.add_argument("--context", type=int, default=256)
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    parser.add_argument("--port", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--rank", type=int, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    _measure(asked) if asked.way else main(asked)
