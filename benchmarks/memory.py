"""The peak of memory that is foreseen, beside the one measured in a process that trains.

    python -m benchmarks.memory             # eight configs: predicted, measured, ratio
    python -m benchmarks.memory --limits    # eight limits from the full need to the minimum: peak and time of an update

The measured peak is the largest resident set of a fresh process that makes a few updates; no checkpoint is saved meanwhile.
Limits are gone through round after round, on one thread: the largest peak counts, and the least processor time of an update.
"""

from __future__ import annotations

import argparse
import os
from dataclasses import astuple

import torch

from configs.schema import TrainSettings
from gpt2core.memory.plan import keep_within, predict
from gpt2core.memory.trial_run import Measured, _measure, measure
from gpt2core.memory.workload import Workload
from gpt2core.model.config import GPT2Config

CASES: list[tuple[GPT2Config, dict[str, object]]] = [
    (GPT2Config(1024, 128, 128, 4, 4), {"batch_size": 64, "dtype": "bfloat16"}),
    (GPT2Config(50257, 256, 768, 12, 12), {"batch_size": 4, "dtype": "bfloat16"}),
    (GPT2Config(50257, 256, 768, 12, 12), {"batch_size": 8, "recompute_blocks": 11, "dtype": "bfloat16"}),
    (GPT2Config(50257, 256, 768, 12, 6), {"batch_size": 2, "accumulate": 2, "dtype": "float32"}),
    (GPT2Config(8192, 512, 512, 8, 8), {"batch_size": 4, "recompute_blocks": 4, "dtype": "bfloat16"}),
    (GPT2Config(50257, 256, 768, 12, 12), {"batch_size": 4, "trainable": ["transformer"], "dtype": "bfloat16"}),
    (GPT2Config(8192, 512, 512, 8, 8), {"batch_size": 8, "dtype": "bfloat16", "mask_documents": True}),
    (GPT2Config(8192, 512, 512, 8, 8), {"batch_size": 4, "dtype": "float32", "mask_documents": True}),
]
LIMITED = (GPT2Config(4096, 256, 384, 6, 8), {"batch_size": 4, "dtype": "bfloat16"})
LIMITS = 8
ROUNDS = 3


def workload(config: GPT2Config, settings: dict[str, object]) -> Workload:
    given = {"steps": 4, **settings}
    masked = bool(given.pop("mask_documents", False))
    return Workload(config, TrainSettings.model_validate(given), torch.device("cpu"), masked)


def measured(work: Workload, anew: bool = True) -> Measured:
    if anew:
        _measure.cache_clear()
    found = measure(work)
    assert found is not None
    return found


def compare(only: list[int]) -> None:
    print(f"{'vocabulary, context, width, heads, blocks':44}{'predicted MB':>13}{'measured MB':>13}{'ratio':>8}  settings")
    for number in only or range(len(CASES)):
        config, settings = CASES[number]
        work = workload(config, settings)
        need = predict(work, PROCESS, saves_beside=False)
        peak = PROCESS + measured(work).peak
        print(
            f"{astuple(config)[:5]!s:44}{need.peak / 1e6:13.0f}{peak / 1e6:13.0f}{need.peak / peak:8.3f}  {settings}",
            flush=True,
        )


def limits() -> None:
    os.environ["OMP_NUM_THREADS"] = "1"
    work = workload(*LIMITED)
    thrifty = work.with_settings(recompute_blocks=work.config.n_layer - 1)
    full, least = (predict(either, PROCESS, saves_beside=False).with_spare for either in (work, thrifty))
    steps = [full - (full - least) * number // (LIMITS - 1) for number in range(LIMITS)]
    ways = {limit: keep_within(limit, work, PROCESS).recompute_blocks for limit in steps}
    rounds = [
        {blocks: measured(work.with_settings(recompute_blocks=blocks), number > 0) for blocks in sorted(set(ways.values()))}
        for number in range(ROUNDS)  # the search for the ways was the first
    ]
    print(f"{'limit MB':>10}{'measured MB':>13}{'recomputed':>12}{'s an update':>13}")
    for limit, blocks in ways.items():
        peak = PROCESS + max(found[blocks].peak for found in rounds)
        seconds = min(found[blocks].processor for found in rounds)
        print(f"{limit / 1e6:10.0f}{peak / 1e6:13.0f}{blocks:12}{seconds:13.3f}{'' if peak <= limit else '  passed'}")


PROCESS = 420_000_000
"""What Python and PyTorch alone hold; the same on both sides of the comparison."""

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--limits", action="store_true")
    parser.add_argument("--only", type=int, nargs="*", default=[], help="numbers of configs")
    given = parser.parse_args()
    limits() if given.limits else compare(given.only)
