"""Text file to published token store, beside the tokenizer alone, datasets.map and other BPE libraries.

python benchmarks/encode.py --text FILE --vocabulary FOLDER [--repeat 100]         speed, of what is installed
python benchmarks/encode.py --text FILE --vocabulary FOLDER --memory 4 [--lines] memory while encoding so many gigabytes
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("RAYON_NUM_THREADS", "2")
THREADS = 2
GROUP = 256
"""Texts encoded at once, some 16 MB."""
Encode = Callable[[list[str]], Any]


def encode_file(source: Path, vocabulary: Path, stores: Path) -> None:
    from configs.schema import DataSettings
    from gpt2core.store.encoding import encode_store
    from gpt2core.text.documents import find_files
    from gpt2core.text.tokenizer import load_tokenizer

    settings = DataSettings(source=str(source))
    encode_store(find_files(settings), settings, load_tokenizer(vocabulary), stores)


def libraries(saved: Path) -> Iterator[tuple[str, Callable[[], Encode]]]:
    """Name and maker of each library's batch encoder for one tokenizer.json without special tokens."""

    def tokenizers() -> Encode:
        core = importlib.import_module("tokenizers").Tokenizer.from_file(str(saved))
        return lambda texts: core.encode_batch(texts, add_special_tokens=False)

    def fastokens() -> Encode:
        core = importlib.import_module("fastokens").Tokenizer.from_file(str(saved))
        return lambda texts: core.encode_batch(texts)

    def gigatoken() -> Encode:
        core = importlib.import_module("gigatoken").Tokenizer(str(saved))
        return lambda texts: core.encode_batch(texts)

    def tokie() -> Encode:
        core = importlib.import_module("tokie").Tokenizer.from_json(str(saved))
        return lambda texts: core.encode_batch(texts, add_special_tokens=False)

    def kitoken() -> Encode:
        core = importlib.import_module("kitoken").Kitoken.from_file(str(saved))
        return lambda texts: core.encode_all(texts)

    def splintr() -> Encode:
        core = importlib.import_module("splintr").from_json(str(saved))
        return lambda texts: core.encode_batch(texts)

    def tiktoken() -> Encode:
        module, vocabulary = importlib.import_module("tiktoken"), json.loads(saved.read_text())["model"]["vocab"]
        from gpt2core.text.tokenizer import _bytes_of

        pattern = r"""'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s"""
        ranks = {_bytes_of(token): number for token, number in vocabulary.items() if token != "<|endoftext|>"}
        core = module.Encoding("gpt2", pat_str=pattern, mergeable_ranks=ranks, special_tokens={})
        return lambda texts: core.encode_ordinary_batch(texts, num_threads=THREADS)

    makers = (tokenizers, tiktoken, kitoken, tokie, splintr, fastokens, gigatoken)
    return ((maker.__name__, maker) for maker in makers)


def lists_of(found: Any) -> list[list[int]]:
    """Ids of each text, whatever the library gives; not part of what is timed."""
    return found.tolist() if hasattr(found, "tolist") else [getattr(one, "ids", one) for one in found]


def spent(work: Callable[[], object], n_bytes: int) -> str:
    """MB/s of some work: elapsed, and by processor time of this process and its children, which others disturb less."""
    elapsed, processor = time.perf_counter(), sum(os.times()[:4])
    work()
    elapsed, processor = time.perf_counter() - elapsed, sum(os.times()[:4]) - processor
    return f"{n_bytes / elapsed / 1e6:7.1f} MB/s, {n_bytes / processor / 1e6:7.1f} MB a processor second"


def encode_all(encode: Encode, groups: list[list[str]]) -> None:
    for group in groups:
        encode(group)


def compare_libraries(texts: list[str], repeat: int, saved: Path) -> None:
    """Speed of each library for the texts again and again, and whether its ids are those of the first one."""
    groups = [(texts * repeat)[start : start + GROUP] for start in range(0, len(texts) * repeat, GROUP)]
    expected, n_bytes = None, repeat * sum(len(text.encode()) for text in texts)
    for name, make in libraries(saved):
        try:
            encode = make()
        except ImportError:
            print(f"  {name:<11} not installed")
            continue
        speed = spent(partial(encode_all, encode, groups), n_bytes)
        found = lists_of(encode(texts))
        expected = expected or found
        print(f"  {name:<11} {speed}, {'identical' if found == expected else 'OTHER'} ids", flush=True)


def datasets_map(source: Path, saved: Path, folder: Path) -> None:
    """Hugging Face's usual way: lines of text, mapped in batches by two processes, saved to disk."""
    import datasets
    import tokenizers

    core = tokenizers.Tokenizer.from_file(str(saved))
    cache = str(folder / "cache")
    lines = datasets.load_dataset("text", data_files=str(source), split="train", cache_dir=cache, keep_linebreaks=True)

    def encode(batch: dict[str, list[str]]) -> dict[str, list[list[int]]]:
        return {"ids": [found.ids for found in core.encode_batch(batch["text"], add_special_tokens=False)]}

    lines.map(encode, batched=True, num_proc=THREADS, remove_columns=["text"]).save_to_disk(str(folder / "saved"))


def speed(text: Path, vocabulary: Path, repeat: int) -> None:
    from gpt2core.text.pieces import cut_text
    from gpt2core.text.tokenizer import load_tokenizer

    tokenizer = load_tokenizer(vocabulary)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        saved = tokenizer.save(folder / "vocabulary")
        saved.write_text(json.dumps({**json.loads(saved.read_text(encoding="utf-8")), "added_tokens": []}), encoding="utf-8")
        once = text.read_text(encoding="utf-8")
        source = folder / text.name
        source.write_text(once * repeat, encoding="utf-8")
        size = source.stat().st_size
        print(f"{text.name} x {repeat}: {size / 1e6:.0f} MB")
        compare_libraries(list(cut_text(once)), repeat, saved)
        stores = folder / "stores"
        print(f"  text file to published store: {spent(lambda: encode_file(source, vocabulary, stores), size)}", flush=True)
        try:
            print(
                f"  datasets.map(num_proc=2) and save: {spent(lambda: datasets_map(source, saved, folder), size)}", flush=True
            )
        except ImportError:
            print("  datasets    not installed")


def memory(text: Path, vocabulary: Path, gigabytes: float, lines: bool) -> None:
    """Encode in a process of its own and watch its anonymous memory."""
    with tempfile.TemporaryDirectory() as name:
        source = Path(name) / "big.txt"
        raw = text.read_bytes()
        with source.open("wb") as file:
            number = 0
            while file.tell() < gigabytes * 1e9:
                file.write(raw if lines else raw.replace(b"\r\n", b" ").replace(b"\n", b" "))
                file.write(b"<|endoftext|>%d\n" % number if lines else b" %d " % number)
                number += 1
        script = "import sys; from pathlib import Path; from encode import encode_file; encode_file(*map(Path, sys.argv[1:]))"
        start = time.perf_counter()
        command = [sys.executable, "-c", script, str(source), str(vocabulary.absolute()), str(Path(name) / "stores")]
        highest = watch(subprocess.Popen(command, cwd=Path(__file__).parent))
        seconds = time.perf_counter() - start
        size = source.stat().st_size
        rate = f"{size / 1e9:.2f} GB ({'documents' if lines else 'one line'}): {seconds:.0f} s, {size / seconds / 1e6:.1f} MB/s"
        print(f"{rate}, anonymous memory up to {highest} MB")


def watch(process: subprocess.Popen[bytes]) -> int:
    """Highest anonymous memory of a process in megabytes."""
    highest, status = 0, Path(f"/proc/{process.pid}/status")
    while process.poll() is None:
        found = [line for line in status.read_text().splitlines() if line.startswith("RssAnon")]
        highest = max(highest, int(found[0].split()[1]) // 1000 if found else 0)
        threading.Event().wait(0.02)
    if process.returncode:
        sys.exit(f"the encode failed with {process.returncode}")
    return highest


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--vocabulary", type=Path, required=True)
    parser.add_argument("--repeat", type=int, default=100)
    parser.add_argument("--memory", type=float)
    parser.add_argument("--lines", action="store_true")
    given = parser.parse_args()
    if given.memory:
        memory(given.text, given.vocabulary, given.memory, given.lines)
    else:
        speed(given.text, given.vocabulary, given.repeat)


if __name__ == "__main__":
    main()
