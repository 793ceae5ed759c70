"""Random batches (12 x 1,024) from a token store, beside nanoGPT's way: np.memmap opened anew for each batch, rows stacked.

python benchmarks/batches.py [--gigabytes 2]
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from gpt2core.store.manifest import ROW_TOKENS
from gpt2core.store.token_store import TokenStream, token_pages
from gpt2core.store.writer import TokenShard
from gpt2core.training.batches import Batches

BATCH, BLOCK, REPEATS, ROUNDS = 12, 1024, 500, 12
VOCABULARY = 50_257


def nanogpt_batch(path: Path) -> tuple[torch.Tensor, torch.Tensor]:
    data = np.memmap(path, dtype=np.uint16, mode="r")
    starts = torch.randint(len(data) - BLOCK, (BATCH,)).tolist()
    inputs = torch.stack([torch.from_numpy(data[start : start + BLOCK].astype(np.int64)) for start in starts])
    targets = torch.stack([torch.from_numpy(data[start + 1 : start + 1 + BLOCK].astype(np.int64)) for start in starts])
    return inputs, targets


def write(folder: Path, gigabytes: float) -> tuple[Path, list[Path]]:
    """The same random tokens as a raw file and as shards."""
    raw, shards = folder / "tokens.bin", []
    draw = np.random.default_rng(0)
    with raw.open("wb") as file:
        for number in range(max(1, round(gigabytes * 16))):
            tokens = draw.integers(0, VOCABULARY, 1 << 25).astype("<u2")
            tokens.tofile(file)
            shards.append(folder / f"tokens-train-{number:05d}.parquet")
            shard = TokenShard(shards[-1], tokens.dtype)
            shard.append(tokens)
            shard.close(padding=0)
    return raw, shards


def anonymous_memory() -> float:
    """Megabytes."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("RssAnon"))
    return int(line.split()[1]) / 1000


def open_shards(shards: list[Path]) -> TokenStream:
    return TokenStream([page for shard in shards for page in token_pages(shard, np.dtype("<u2"), ROW_TOKENS)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gigabytes", type=float, default=2.0)
    with tempfile.TemporaryDirectory() as name:
        raw, shards = write(Path(name), parser.parse_args().gigabytes)
        for count in sorted({1, len(shards)}):
            start = time.perf_counter()
            Batches(open_shards(shards[:count]), BLOCK, BATCH, seed=0).at(0)
            size = sum(shard.stat().st_size for shard in shards[:count]) / 1e9
            print(f"first batch from {size:.2f} GB: {1000 * (time.perf_counter() - start):.1f} ms")
        batches = Batches(open_shards(shards), BLOCK, BATCH, seed=0)
        before = anonymous_memory()
        ratios = []
        for number in range(ROUNDS):
            theirs = seconds(lambda _: nanogpt_batch(raw), 0)
            ours = seconds(batches.at, number * REPEATS)
            ratios.append(theirs / ours)
            figures = "; ".join(
                f"{a * 1e6:5.0f} us nanoGPT's way, {b * 1e6:4.0f} us here, {a / b:4.1f} times as fast"
                for a, b in zip(theirs, ours, strict=True)
            )
            print(f"elapsed, of the processor: {figures}")
        elapsed, processor = np.median(ratios, axis=0)
        grown = anonymous_memory() - before
        print(f"median {elapsed:.1f} times, {processor:.1f} by processor time; anonymous memory grew by {grown:.0f} MB")


def seconds(batch: Callable[[int], object], first: int) -> np.ndarray:
    """(elapsed, processor) seconds for one batch."""
    elapsed, processor = time.perf_counter(), time.process_time()
    for index in range(first, first + REPEATS):
        batch(index)
    return np.array([time.perf_counter() - elapsed, time.process_time() - processor]) / REPEATS


if __name__ == "__main__":
    main()
