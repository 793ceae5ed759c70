"""Speed of `gpt2flow serve` beside transformers' own server, on this machine: interleaved rounds, medians and spread.

    pip install 'transformers[serving]>=5.24'                      # into this environment, or name another one's Python
    python -m benchmarks.serve VOCABULARY                          # GPT-2 124M, random weights; encoder.json and vocab.bpe
    python -m benchmarks.serve VOCABULARY --python /path/to/python --rounds 5 --clients 1 8

Every server gets the same weights and, in turn, the same prompts with temperature 0 over OpenAI's /v1/completions, from so many
clients at once; a figure is tokens a second of all of them together, prompts included, after one round that does not count.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from benchmarks.processor import describe
from gpt2core import GPT2, RELEASED_SIZES, load_tokenizer
from gpt2core.weights.loading import save_model

TEXT = "the model reads a text and writes another one while somebody waits for it at the other end of a wire"
PATIENCE = 300.0
"""Seconds until a server must answer, and in which a request must be done."""


@dataclass(frozen=True)
class Server:
    """How a server is started, and what its requests have to name."""

    name: str
    command: list[str]
    port: int
    asked: dict[str, object]


def servers(folder: Path, python: str, port: int) -> list[Server]:
    ours = [sys.executable, "-m", "flows.cli", "serve", str(folder), "--weights"]
    theirs = [python, "-c", "from transformers.cli.transformers import app; app()", "serve", str(folder), "--device", "cpu"]
    named = {"model": str(folder)}
    return [
        Server("gpt2flow", [*ours, "auto", "--port", str(port)], port, {}),
        Server("gpt2flow float32", [*ours, "float32", "--port", str(port + 1)], port + 1, {}),
        Server("transformers float32", [*theirs, "--dtype", "float32", "--port", str(port + 2)], port + 2, named),
        Server("transformers bfloat16", [*theirs, "--dtype", "bfloat16", "--port", str(port + 3)], port + 3, named),
    ]


@contextmanager
def running(server: Server, log: Path) -> Iterator[None]:
    """The server, once it has answered a request."""
    quiet = {**os.environ, "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": "", "DO_NOT_TRACK": "1"}
    with log.open("wb") as out, subprocess.Popen(server.command, stdout=out, stderr=out, env=quiet) as process:
        try:
            deadline = time.monotonic() + PATIENCE
            while True:
                try:
                    complete(server, "The", 1)
                    break
                except httpx.TransportError:
                    assert process.poll() is None and time.monotonic() < deadline, log.read_text()[-2000:]
                    time.sleep(0.5)
            yield
        finally:
            process.terminate()


def complete(server: Server, prompt: str, tokens: int) -> int:
    """Tokens that the server says it has written."""
    body = {"prompt": prompt, "max_tokens": tokens, "temperature": 0.0, **server.asked}
    answer = httpx.post(f"http://127.0.0.1:{server.port}/v1/completions", json=body, timeout=PATIENCE, trust_env=False)
    assert answer.status_code == 200, answer.text
    return int(answer.json()["usage"]["completion_tokens"])


def tokens_per_second(server: Server, clients: int, tokens: int) -> float:
    words = TEXT.split()
    prompts = [" ".join(words[number:] + words[:number]) for number in range(clients)]
    begun = time.perf_counter()
    with ThreadPoolExecutor(clients) as together:
        written = sum(together.map(lambda prompt: complete(server, prompt, tokens), prompts))
    return written / (time.perf_counter() - begun)


def save_random_model(vocabulary: Path, folder: Path) -> None:
    tokenizer = load_tokenizer(vocabulary)
    save_model(GPT2(RELEASED_SIZES["124M"]).initialise(0), folder, end_of_text=tokenizer.end_of_text)
    tokenizer.save(folder)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("vocabulary", type=Path, help="folder with GPT-2's encoder.json and vocab.bpe")
    options.add_argument("--python", default=sys.executable, help="interpreter that has transformers[serving]")
    options.add_argument("--clients", type=int, nargs="+", default=[1, 8])
    options.add_argument("--tokens", type=int, default=48, help="tokens of each completion")
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--only", nargs="+", metavar="NAME", help="names of servers, as they are printed")
    options.add_argument("--port", type=int, default=8700)
    asked = options.parse_args()
    print(f"{describe()}, {os.cpu_count()} cores; GPT-2 124M, {asked.tokens} tokens a request", flush=True)
    with tempfile.TemporaryDirectory() as scratch, ExitStack() as stack:
        save_random_model(asked.vocabulary, Path(scratch) / "model")
        known = servers(Path(scratch) / "model", asked.python, asked.port)
        started = [server for server in known if not asked.only or server.name in asked.only]
        for server in started:
            stack.enter_context(running(server, Path(scratch) / f"{server.port}.log"))
        for clients in asked.clients:
            compare(started, clients, asked.tokens, asked.rounds)


def compare(started: list[Server], clients: int, tokens: int, rounds: int) -> None:
    found: dict[str, list[float]] = {server.name: [] for server in started}
    for number in range(rounds + 1):
        for server in started:
            speed = tokens_per_second(server, clients, tokens)
            found[server.name] += [speed] if number else []
    first = found[started[0].name]
    for name, speeds in found.items():
        ratio = statistics.median(ours / other for ours, other in zip(first, speeds, strict=True))
        spread = f"{min(speeds):.1f}-{max(speeds):.1f}"
        print(
            f"{clients} clients, {name:24} {statistics.median(speeds):7.1f} tokens/s ({spread}); gpt2flow is {ratio:.2f} x",
            flush=True,
        )


if __name__ == "__main__":
    main()
