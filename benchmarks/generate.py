"""Speed of generation beside what one would use instead, on this machine: interleaved rounds, medians and spread.

    pip install -e '.[bench]'
    python -m benchmarks.generate                                  # GPT-2 124M, random weights, 2 threads
    python -m benchmarks.generate --prompts 256 --batches 1 --rounds 5 --only gpt2flow transformers
    python -m benchmarks.generate --perplexity FOLDER TEXT         # what smaller weights cost a real model

A figure is tokens a second of all rows together from the first logits to the last, so without reading the prompt; "prompt" is
the time to the first logits. The bound is the bytes that a token has to read (all weights but the embeddings' rows, and keys
and values) over the bandwidth of a big copy, bytes read and written, on as many threads. Where both are measured, greedy
float32 tokens are compared with transformers'.
"""

from __future__ import annotations

import argparse
import copy
import math
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.processor import describe, lower_to
from gpt2core import GPT2, RELEASED_SIZES, generate, load_model, load_tokenizer
from gpt2core.generation.inference import for_inference

Generate = Callable[[Tensor, int], Tensor]
WEIGHT_BYTES = {"float32": 4, "bfloat16": 2, "int8": 1}
CLOCKS = {"elapsed": time.perf_counter, "processor": time.process_time}
clock = CLOCKS["elapsed"]
ticks: list[float] = []
"""When logits were ready, in the call that runs."""


def tick(*_: object) -> None:
    ticks.append(clock())


def transformers_generate(model: GPT2, dtype: torch.dtype, cache: str | None) -> Generate:
    from transformers import GPT2Config, GPT2LMHeadModel

    theirs = GPT2LMHeadModel(GPT2Config()).eval()
    theirs.transformer.load_state_dict(model.state_dict())
    theirs.tie_weights()
    theirs.to(dtype).register_forward_hook(tick)
    options = {"do_sample": False, "pad_token_id": 50256, **({"cache_implementation": cache} if cache else {})}

    def run(tokens: Tensor, new: int) -> Tensor:
        mask = torch.ones_like(tokens)
        return theirs.generate(tokens, attention_mask=mask, max_new_tokens=new, min_new_tokens=new, **options)

    return run


def ticking(model: GPT2) -> GPT2:
    twin, head = copy.copy(model), model.head

    def ticking_head(hidden: Tensor) -> Tensor:
        logits = head(hidden)
        tick()
        return logits

    twin.head = ticking_head
    return twin


def our_generate(model: GPT2, weights: str) -> Generate:
    small = ticking(for_inference(model, weights))
    return lambda tokens, new: generate(small, tokens, new, temperature=0.0)


def without_cache(model: GPT2) -> Generate:
    twin = ticking(model)

    @torch.no_grad()
    def run(tokens: Tensor, new: int) -> Tensor:
        for _ in range(new):
            logits = twin.head(twin.hidden(tokens)[:, -1])
            tokens = torch.cat([tokens, logits.argmax(-1, keepdim=True)], 1)
        return tokens

    return run


CONTENDERS: dict[str, Callable[[GPT2], Generate]] = {
    "transformers float32, its defaults": lambda model: transformers_generate(model, torch.float32, None),
    "transformers bfloat16, dynamic cache": lambda model: transformers_generate(model, torch.bfloat16, "dynamic"),
    "transformers bfloat16, static cache": lambda model: transformers_generate(model, torch.bfloat16, "static"),
    "float32 without a cache": without_cache,
    "gpt2flow float32": lambda model: our_generate(model, "float32"),
    "gpt2flow bfloat16": lambda model: our_generate(model, "bfloat16"),
    "gpt2flow int8": lambda model: our_generate(model, "int8"),
}


def seconds_of(call: Callable[[], object]) -> float:
    started = clock()
    call()
    return clock() - started


def copy_bandwidth() -> float:
    """Bytes a second, read and written."""
    source = torch.ones(1 << 26)
    target = torch.empty_like(source)
    return 2 * source.nbytes / min(seconds_of(lambda: target.copy_(source)) for _ in range(10))


def bound(model: GPT2, weights: str, prompt: int, batch: int, bandwidth: float) -> float:
    """Tokens a second that reading alone would allow."""
    config, size = model.config, WEIGHT_BYTES[weights]
    read = (model.parameter_count() - model.wpe.weight.numel()) * size
    cache = 2 * config.n_layer * config.n_embd * prompt * batch * (4 if weights == "float32" else 2)
    return batch * bandwidth / (read + cache)


def measure(model: GPT2, names: list[str], prompt: int, batch: int, new: int, rounds: int) -> None:
    tokens = torch.randint(0, model.config.n_vocab, (batch, prompt), generator=torch.Generator().manual_seed(0))
    runs = {name: CONTENDERS[name](model) for name in names if "without" not in name or (prompt, batch) == (256, 1)}
    rates: dict[str, list[float]] = {name: [] for name in runs}
    firsts: dict[str, list[float]] = {name: [] for name in runs}
    texts, bandwidths = {}, []
    for run in runs.values():
        run(tokens[:, :16], 3)  # the first call of all is slower
    for _ in range(rounds):
        bandwidths.append(copy_bandwidth())
        for name, run in runs.items():
            ticks.clear()
            started = clock()
            texts[name] = run(tokens, (4 if "without" in name else new) + 1)
            firsts[name].append(ticks[0] - started)
            rates[name].append(batch * (len(ticks) - 1) / max(ticks[-1] - ticks[0], 1e-9))
    print(f"\nprompt {prompt}, batch {batch}, {new} tokens; copy {max(bandwidths) / 1e9:.1f} GB/s")
    print(f"{'':40}{'tokens/s':>9}{'from':>8}{'to':>8}{'bfloat16 is':>14}{'of the bound':>14}{'prompt, s':>11}")
    ours = rates.get("gpt2flow bfloat16", [])
    for name, found in rates.items():
        times = statistics.median(own / other for own, other in zip(ours, found, strict=True)) if ours else math.nan
        share = ""
        if name.startswith("gpt2flow"):
            limits = [bound(model, name.split()[1], prompt, batch, each) for each in bandwidths]
            share = f"{statistics.median(rate / limit for rate, limit in zip(found, limits, strict=True)):.0%}"
        spread = f"{statistics.median(found):9.1f}{min(found):8.1f}{max(found):8.1f}"
        print(f"{name:40}{spread}{times:12.2f} x{share:>14}{statistics.median(firsts[name]):11.2f}", flush=True)
    theirs, own = texts.get("transformers float32, its defaults"), texts.get("gpt2flow float32")
    if theirs is not None and own is not None:
        print(
            "float32: the tokens are " + ("those of transformers" if torch.equal(theirs, own) else "OTHERS than transformers'")
        )


@torch.no_grad()
def perplexities(folder: Path, text: Path, windows: int = 20) -> None:
    """Perplexity of a real model by the kind of its weights, computed a token at a time as generation does."""
    from gpt2core.model.key_value_cache import KeyValueCache

    model, ids = load_model(folder), load_tokenizer(folder).encode(text.read_text(encoding="utf-8"))
    length = min(model.config.n_ctx, 256)
    batch = torch.tensor(ids[: len(ids) // length * length]).view(-1, length)[:windows]
    for weights in WEIGHT_BYTES:
        small = for_inference(model, weights)
        cache = KeyValueCache(model.config, len(batch), length, torch.device("cpu"), small.wte.weight.dtype)
        losses = [
            torch.nn.functional.cross_entropy(small(batch[:, i : i + 1], cache)[:, 0], batch[:, i + 1])
            for i in range(length - 1)
        ]
        print(f"{weights:10}{math.exp(torch.stack(losses).mean().item()):12.4f}", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--new", type=int, default=32)
    parser.add_argument("--prompts", type=int, nargs="+", default=[256, 900])
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--only", nargs="+", default=[""], help="beginnings of the contenders' names")
    parser.add_argument("--clock", choices=CLOCKS, default="elapsed", help="processor time, with 1 thread, on a busy machine")
    parser.add_argument("--perplexity", type=Path, nargs=2, metavar=("FOLDER", "TEXT"))
    parser.add_argument("--level", help="compute as a lesser processor: one of GPT2FLOW_KERNELS")
    given = parser.parse_args()
    lower_to(given.level)
    print(describe())
    torch.set_num_threads(given.threads)
    clock = CLOCKS[given.clock]
    if given.perplexity:
        perplexities(*given.perplexity)
    else:
        gpt2 = GPT2(RELEASED_SIZES["124M"]).initialise(0)
        chosen = [name for name in CONTENDERS if name.startswith(tuple(given.only))]
        for prompt in given.prompts:
            for batch in given.batches:
                measure(gpt2, chosen, prompt, batch, given.new, given.rounds)
