"""Training speed beside what one would use instead, on this machine: interleaved rounds, medians and spread.

    pip install -e '.[bench]'
    python -m benchmarks.train                            # GPT-2 124M, batch 4 x 256, 2 threads
    python -m benchmarks.train --size demo --rounds 40    # overheads
    python -m benchmarks.train --level avx2               # as on a processor without AVX512
    python -m benchmarks.train --losses 30                # the loss by step as well, on the same batches

Each contender lives in a process of its own and makes one whole update when it is its turn: forward, backward, clipping,
optimizer. All start from the same weights and see the same batches of English text, a byte a token.
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pydoc_data.topics import topics

import torch
from torch import Tensor, nn

from benchmarks.plain_gpt2 import PlainGPT2
from benchmarks.processor import describe, lower_to
from configs.schema import TrainSettings
from gpt2core.kernels import matmul
from gpt2core.machine.dtypes import choose_dtype, cpu_multiplies_bfloat16
from gpt2core.machine.kernel_level import level, reaches
from gpt2core.model.config import GPT2Config
from gpt2core.model.gpt2 import GPT2
from gpt2core.training.callback import History
from gpt2core.training.trainer import Trainer

RATE, BETAS, DECAY, CLIP = 3e-4, (0.9, 0.95), 0.1, 1.0
Update = Callable[[int], float]
"""Makes the update of that number (0, 1, ...) and returns its loss."""


@dataclass(frozen=True)
class Size:
    """A model and the batch it is measured with."""

    config: GPT2Config
    batch: int


SIZES = {
    "124M": Size(GPT2Config(50257, 256, 768, 12, 12), 4),
    "355M": Size(GPT2Config(50257, 512, 1024, 16, 24), 1),
    "demo": Size(GPT2Config(1024, 128, 128, 4, 4), 16),
    "shakespeare-char": Size(GPT2Config(257, 64, 128, 4, 4), 12),
}


class TextBatches:
    """Batches of consecutive bytes at places that depend on the index alone."""

    def __init__(self, size: Size) -> None:
        self._text = torch.frombuffer(bytearray("\n".join(topics.values()).encode()), dtype=torch.uint8).long()
        self._shape = (size.batch, size.config.n_ctx + 1)

    def at(self, index: int) -> tuple[Tensor, Tensor]:
        """Inputs and targets int64 [batch, n_ctx]."""
        batch, width = self._shape
        generator = torch.Generator().manual_seed(index)
        starts = torch.randint(len(self._text) - width, (batch, 1), generator=generator)
        windows = self._text[starts + torch.arange(width)]  # [B, T + 1]
        return windows[:, :-1].contiguous(), windows[:, 1:].contiguous()


def transformers_update(size: Size, autocast: bool) -> Update:
    """Hugging Face's GPT2LMHeadModel as its Trainer drives it: fused AdamW, clipping."""
    from transformers import GPT2Config as TheirConfig
    from transformers import GPT2LMHeadModel

    ours = size.config
    config = TheirConfig(
        vocab_size=ours.n_vocab,
        n_positions=ours.n_ctx,
        n_embd=ours.n_embd,
        n_layer=ours.n_layer,
        n_head=ours.n_head,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
    )
    model = GPT2LMHeadModel(config).train()
    model.transformer.load_state_dict(GPT2(ours).initialise(0).state_dict())
    model.tie_weights()
    optimizer = torch.optim.AdamW(model.parameters(), RATE, BETAS, weight_decay=DECAY, fused=True)
    batches = TextBatches(size)

    def update(step: int) -> float:
        inputs, targets = batches.at(step)
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            loss = model(input_ids=inputs, labels=targets, shift_labels=targets).loss
        return finish(loss, model, optimizer)

    return update


def compiled_update(size: Size) -> Update:
    """A plain PyTorch GPT-2 with torch.compile in float32 and unfused AdamW: nanoGPT's defaults on a CPU."""
    model = PlainGPT2(size.config)
    model.load_gpt2(GPT2(size.config).initialise(0))
    compiled = torch.compile(model)
    optimizer = torch.optim.AdamW(model.parameters(), RATE, BETAS, weight_decay=DECAY)
    batches = TextBatches(size)
    return lambda step: finish(compiled(*batches.at(step)), model, optimizer)


def finish(loss: Tensor, model: nn.Module, optimizer: torch.optim.Optimizer) -> float:
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), CLIP)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return loss.item()


def our_update(size: Size, dtype: str = "auto") -> Update:
    settings = TrainSettings(
        steps=10**6, batch_size=size.batch, learning_rate=RATE, schedule="constant", warmup_steps=0, dtype=dtype
    )
    history = History()
    trainer = Trainer(GPT2(size.config).initialise(0), TextBatches(size), settings, [history])

    def update(step: int) -> float:
        trainer.run_until(step + 1)
        return history.losses[-1]

    return update


def products_update(size: Size, ours: bool = False) -> Update:
    """Nothing but the products of a step with its weight matrices: forward, by input, by weight.

    In the dtype that is trained in on this level, by PyTorch or by our own kernels.
    """
    dtype = choose_dtype("auto", torch.device("cpu"), size.config.n_embd)
    width, rows = size.config.n_embd, size.batch * size.config.n_ctx
    shapes = [(width, 3 * width), (width, width), (width, 4 * width), (4 * width, width)] * size.config.n_layer
    shapes.append((width, size.config.n_vocab + size.config.n_vocab % 2))  # pairs of bfloat16 need an even number

    def random(*shape: int) -> Tensor:
        return torch.randn(shape, dtype=dtype)

    layers = [(random(rows, n_in), random(n_in, n_out), random(rows, n_out)) for n_in, n_out in shapes]

    def our_products(_: int) -> float:
        for inputs, weight, gradient in layers:
            matmul.multiply(inputs, weight, torch.empty_like(gradient))
            matmul.multiply(gradient, weight, torch.empty_like(inputs), transposed=True)
            matmul.add_gradient(inputs, gradient, torch.empty_like(weight, dtype=torch.float32), None, add=False)
        return float("nan")

    def update(_: int) -> float:
        for inputs, weight, gradient in layers:
            inputs @ weight
            gradient @ weight.t()
            inputs.t() @ gradient
        return float("nan")

    return our_products if ours else update


CONTENDERS: dict[str, Callable[[Size], Update]] = {
    "a transformers float32": lambda size: transformers_update(size, autocast=False),
    "b transformers bfloat16 autocast": lambda size: transformers_update(size, autocast=True),
    "c plain, torch.compile, float32": compiled_update,
    "d gpt2flow": our_update,
    "e bare products by PyTorch": products_update,
    "f bare products by gpt2flow": lambda size: products_update(size, ours=True),
    "gpt2flow float32": lambda size: our_update(size, "float32"),
    "gpt2flow bfloat16": lambda size: our_update(size, "bfloat16"),
}


def usual() -> str:
    """First letters of the contenders that make sense: bfloat16 without its instructions takes minutes a step."""
    return "acde" + "b" * cpu_multiplies_bfloat16() + "f" * reaches(level(), "avx2")


def serve(name: str, size: str, threads: int, pipe: Connection) -> None:
    """A contender's process: makes the update it is asked for, answers with seconds and loss."""
    torch.set_num_threads(threads)
    update = CONTENDERS[name](SIZES[size])
    pipe.send("ready")
    while (step := pipe.recv()) is not None:
        started = time.perf_counter()
        loss = update(step)
        pipe.send((time.perf_counter() - started, loss))


def measure(names: list[str], size: str, threads: int, rounds: int, losses: int) -> None:
    context, pipes = multiprocessing.get_context("spawn"), {}
    for name in names:
        pipes[name], theirs = context.Pipe()
        context.Process(target=serve, args=(name, size, threads, theirs), daemon=True).start()
        theirs.close()  # so that a process which dies is heard of
        pipes[name].recv()
    seconds: dict[str, list[float]] = {name: [] for name in names}
    step = 0
    for step in range(max(rounds + 2, losses)):
        found = {}
        for name, pipe in pipes.items():
            pipe.send(step)
            taken, found[name] = pipe.recv()
            seconds[name].append(taken)
        print(f"step {step + 1}:", "  ".join(f"{name[0]} {found[name]:.4f} in {seconds[name][-1]:.3f} s" for name in names))
    for pipe in pipes.values():
        pipe.send(None)
    tokens = SIZES[size].batch * SIZES[size].config.n_ctx
    print(f"\n{size}, {tokens} tokens a step, {threads} threads, {step - 1} rounds (the first two steps are not counted)")
    print(f"{'':36}{'tokens/s':>10}{'from':>8}{'to':>8}{'gpt2flow is':>14}")
    ours = seconds["d gpt2flow"][2:]
    for name in names:
        taken = seconds[name][2:]
        faster = statistics.median(other / own for other, own in zip(taken, ours, strict=True))
        figures = [tokens / value for value in (statistics.median(taken), max(taken), min(taken))]
        print(f"{name:36}{figures[0]:10.0f}{figures[1]:8.0f}{figures[2]:8.0f}{faster:12.2f} x")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="124M")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--losses", type=int, default=0, help="steps to make at least, to compare losses")
    parser.add_argument("--only", help="first letters of the contenders; g adds float32 and bfloat16 of ours")
    parser.add_argument("--level", help="compute as a lesser processor: one of GPT2FLOW_KERNELS")
    given = parser.parse_args()
    lower_to(given.level)
    print(describe())
    chosen = [name for name in CONTENDERS if name[0] in (given.only or usual())]
    measure(chosen, given.size, given.threads, given.rounds, given.losses)
