"""The peak of memory that is foreseen, beside the one measured in a process that trains.

    python -m benchmarks.memory             # six configs: predicted, measured, ratio
    python -m benchmarks.memory --limits    # eight limits from the full need to the minimum: peak and time of an update

The measured peak is the largest resident set of a fresh process that makes four updates; no checkpoint is saved meanwhile.
"""

from __future__ import annotations

import argparse
from dataclasses import astuple

import torch

from configs.schema import TrainSettings
from gpt2core.config import GPT2Config
from gpt2core.memory_plan import keep_within, predict
from gpt2core.miniature import measure
from gpt2core.rehearsal import Workload

CASES: list[tuple[GPT2Config, dict[str, object]]] = [
    (GPT2Config(1024, 128, 128, 4, 4), {"batch_size": 64, "dtype": "bfloat16"}),
    (GPT2Config(50257, 256, 768, 12, 12), {"batch_size": 4, "dtype": "bfloat16"}),
    (GPT2Config(50257, 256, 768, 12, 12), {"batch_size": 8, "recompute_blocks": 11, "dtype": "bfloat16"}),
    (GPT2Config(50257, 256, 768, 12, 6), {"batch_size": 2, "accumulate": 2, "dtype": "float32"}),
    (GPT2Config(8192, 512, 512, 8, 8), {"batch_size": 4, "recompute_blocks": 4, "dtype": "bfloat16"}),
    (GPT2Config(50257, 256, 768, 12, 12), {"batch_size": 4, "trainable": ["transformer"], "dtype": "bfloat16"}),
]
LIMITED = (GPT2Config(4096, 256, 384, 6, 8), {"batch_size": 8, "dtype": "bfloat16"})
LIMITS = 8


def workload(config: GPT2Config, settings: dict[str, object]) -> Workload:
    return Workload(config, TrainSettings.model_validate({"steps": 4, **settings}), torch.device("cpu"))


def compare(only: list[int]) -> None:
    print(f"{'vocabulary, context, width, heads, blocks':44}{'predicted MB':>13}{'measured MB':>13}{'ratio':>8}  settings")
    for number in only or range(len(CASES)):
        config, settings = CASES[number]
        work = workload(config, settings)
        need, found = predict(work, PROCESS, saves_beside=False), measure(work)
        assert found is not None
        peak = PROCESS + found.peak
        print(
            f"{astuple(config)[:5]!s:44}{need.peak / 1e6:13.0f}{peak / 1e6:13.0f}{need.peak / peak:8.3f}  {settings}",
            flush=True,
        )


def limits() -> None:
    work = workload(*LIMITED)
    thrifty = work.with_settings(recompute_blocks=work.config.n_layer - 1)
    full, least = (predict(either, PROCESS, saves_beside=False).with_spare for either in (work, thrifty))
    print(f"{'limit MB':>10}{'measured MB':>13}{'recomputed':>12}{'s an update':>13}")
    for number in range(LIMITS):
        limit = full - (full - least) * number // (LIMITS - 1)
        way = keep_within(limit, work, PROCESS)
        found = measure(work.with_settings(recompute_blocks=way.recompute_blocks))
        assert found is not None
        print(
            f"{limit / 1e6:10.0f}{(PROCESS + found.peak) / 1e6:13.0f}{way.recompute_blocks:12}{found.seconds:13.3f}", flush=True
        )


PROCESS = 420_000_000
"""What Python and PyTorch alone hold; the same on both sides of the comparison."""

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--limits", action="store_true")
    parser.add_argument("--only", type=int, nargs="*", default=[], help="numbers of configs")
    given = parser.parse_args()
    limits() if given.limits else compare(given.only)
