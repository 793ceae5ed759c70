"""The whole comparison on one NVIDIA GPU, in about seven minutes: training, generation, memory.

    pip install -e '.[bench]'
    python -m benchmarks.gpu                                  # GPT-2 124M, 1,024 tokens, batch 32
    python -m benchmarks.gpu --only train --batch 16          # one table
    python -m benchmarks.gpu --size tiny --device cpu         # a rehearsal without a GPU

Each contender has a process of its own and the GPU to itself. Training counts whole updates (forward, backward, clipping,
optimizer) of batches that come from the host, in three rounds of some seconds after a warm-up; the share of the card's peak is
of 6 operations a parameter and 12 a layer, width and position for each token, as nanoGPT counts them. Generation counts tokens
from the second on, of all rows together; the first one's time is that of the prompt.
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection

import torch
from torch import Tensor, nn

from benchmarks.plain_gpt2 import PlainGPT2
from configs.schema import TrainSettings
from gpt2core.generation.inference import Weights, for_inference
from gpt2core.generation.sampling import generate
from gpt2core.memory.plan import predict
from gpt2core.memory.trial_run import measure
from gpt2core.memory.workload import Workload
from gpt2core.model.config import RELEASED_SIZES, GPT2Config
from gpt2core.model.gpt2 import GPT2
from gpt2core.training.trainer import Trainer

RATE, BETAS, DECAY, CLIP = 3e-4, (0.9, 0.95), 0.1, 1.0
PEAKS = {"H200": 989e12, "H100": 989e12, "A100": 312e12, "L40S": 362e12, "RTX 4090": 165e12}
"""Products of dense bfloat16 matrices, operations a second by the vendor's data sheets."""
SIZES = {**RELEASED_SIZES, "tiny": GPT2Config(500, 96, 64, 2, 2)}
ROUNDS, SECONDS, WARM_UP = 3, 4.0, 12
PATIENCE = 90.0
"""Seconds that a contender may take in all, compiling included."""
NEW = 64
"""Tokens written after a prompt."""
PROMPTS = [(1, 256), (8, 256), (8, 896)]
"""Rows and tokens."""


@dataclass(frozen=True)
class Case:
    """What is measured, and where."""

    size: str
    batch: int
    device: str

    @property
    def config(self) -> GPT2Config:
        """The model's sizes."""
        return SIZES[self.size]


class Batches:
    """A few batches that come again and again, of ids that are about as unequally frequent as words are."""

    def __init__(self, case: Case) -> None:
        generator = torch.Generator().manual_seed(0)
        drawn = torch.rand(8, case.batch, case.config.n_ctx + 1, generator=generator)
        self._tokens = (case.config.n_vocab**drawn).long() - 1
        self.batch_size = case.batch

    def at(self, index: int) -> tuple[Tensor, Tensor]:
        """Inputs and targets int64 [batch, n_ctx]."""
        tokens = self._tokens[index % len(self._tokens)]
        return tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()


Updates = Callable[[int], None]
"""Makes so many updates more."""


def in_a_loop(case: Case, model: nn.Module, loss_of: Callable[[Tensor, Tensor], Tensor]) -> Updates:
    """The loop that one writes: bfloat16 autocast, fused AdamW, pinned batches, clipping."""
    torch.backends.cuda.matmul.allow_tf32 = True
    optimizer = torch.optim.AdamW(model.parameters(), RATE, BETAS, weight_decay=DECAY, fused=True)
    batches, device = Batches(case), torch.device(case.device)

    def updates(count: int) -> None:
        for index in range(count):
            pair = batches.at(index)
            if device.type == "cuda":
                pair = pair[0].pin_memory(), pair[1].pin_memory()
            inputs, targets = (part.to(device, non_blocking=True) for part in pair)
            with torch.autocast(device.type, torch.bfloat16):
                loss = loss_of(inputs, targets)
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(model.parameters(), CLIP)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    return updates


def transformers_model(config: GPT2Config) -> nn.Module:
    from transformers import GPT2Config as TheirConfig
    from transformers import GPT2LMHeadModel

    sizes = {"vocab_size": config.n_vocab, "n_positions": config.n_ctx, "n_embd": config.n_embd}
    sizes |= {"n_layer": config.n_layer, "n_head": config.n_head, "bos_token_id": 0, "eos_token_id": 0}
    without = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0)
    model = GPT2LMHeadModel(TheirConfig(**sizes, **without, attn_implementation="sdpa"))
    model.transformer.load_state_dict(GPT2(config).initialise(0).state_dict())
    model.tie_weights()
    return model  # type: ignore[no-any-return]


def transformers_updates(case: Case) -> Updates:
    model = transformers_model(case.config).to(case.device).train()
    return in_a_loop(case, model, lambda inputs, targets: model(input_ids=inputs, labels=targets, shift_labels=targets).loss)


def plain_updates(case: Case) -> Updates:
    padded = replace(case.config, n_vocab=-(-case.config.n_vocab // 64) * 64)  # as nanoGPT does it
    model = PlainGPT2(padded)
    model.load_gpt2(GPT2(padded).initialise(0))
    return in_a_loop(case, model, torch.compile(model.to(case.device)))


def our_updates(case: Case) -> Updates:
    given = {"steps": 10**6, "batch_size": case.batch, "learning_rate": RATE, "schedule": "constant", "warmup_steps": 0}
    model = GPT2(case.config).initialise(0).to(case.device)
    trainer = Trainer(model, Batches(case), TrainSettings.model_validate(given))  # type: ignore[arg-type]
    return lambda count: trainer.run_until(trainer.step + count)


TRAINING: dict[str, Callable[[Case], Updates]] = {
    "transformers, bfloat16 autocast, sdpa (as its Trainer)": transformers_updates,
    "plain, compiled, bfloat16 autocast (nanoGPT's defaults)": plain_updates,
    "gpt2flow, its defaults": our_updates,
}


def wait(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize()


def seconds_of(call: Callable[[], object], device: str) -> float:
    wait(device)
    started = time.perf_counter()
    call()
    wait(device)
    return time.perf_counter() - started


def training_figures(name: str, case: Case) -> list[float]:
    """Updates a second, of each round, and last the gigabytes that PyTorch held."""
    updates = TRAINING[name](case)
    updates(WARM_UP)
    count = max(WARM_UP, round(SECONDS * WARM_UP / seconds_of(lambda: updates(WARM_UP), case.device)))
    rates = [count / seconds_of(lambda: updates(count), case.device) for _ in range(ROUNDS)]
    return [*rates, torch.cuda.max_memory_reserved() / 1e9 if case.device.startswith("cuda") else float("nan")]


Write = Callable[[Tensor, int], object]
"""Continues tokens int64 [rows, prompt] by so many."""


def transformers_generation(case: Case, **options: object) -> Write:
    model = transformers_model(case.config).to(case.device, torch.bfloat16).eval()

    def write(tokens: Tensor, new: int) -> object:
        given = {"do_sample": False, "pad_token_id": 0, "attention_mask": torch.ones_like(tokens), **options}
        return model.generate(tokens, max_new_tokens=new, min_new_tokens=new, **given)  # type: ignore[operator]

    return write


def our_generation(case: Case, weights: Weights) -> Write:
    model = for_inference(GPT2(case.config).initialise(0).to(case.device).eval(), weights)
    return lambda tokens, new: generate(model, tokens, new, temperature=0.0)


GENERATION: dict[str, Callable[[Case], Write]] = {
    "transformers bfloat16, its defaults": transformers_generation,
    "transformers bfloat16, static cache": lambda case: transformers_generation(case, cache_implementation="static"),
    "gpt2flow bfloat16": lambda case: our_generation(case, "bfloat16"),
    "gpt2flow float32": lambda case: our_generation(case, "float32"),
}


def generation_figures(name: str, case: Case) -> list[float]:
    """For each of the prompts: the median, least and most tokens a second, and the seconds of the first token."""
    write, figures, generator = GENERATION[name](case), list[float](), torch.Generator().manual_seed(0)
    for rows, length in prompts_of(case):
        tokens = torch.randint(1, case.config.n_vocab, (rows, length), generator=generator).to(case.device)
        write(tokens, 4)
        first = statistics.median(seconds_of(lambda t=tokens: write(t, 1), case.device) for _ in range(ROUNDS))
        wholes = [seconds_of(lambda t=tokens: write(t, NEW), case.device) for _ in range(ROUNDS)]
        rates = [rows * (NEW - 1) / max(whole - first, 1e-9) for whole in wholes]
        figures += [statistics.median(rates), min(rates), max(rates), first]
    return figures


def prompts_of(case: Case) -> list[tuple[int, int]]:
    """Those that fit the context."""
    return [(rows, min(length, case.config.n_ctx - NEW)) for rows, length in PROMPTS]


def serve(figures: Callable[[str, Case], list[float]], name: str, case: Case, pipe: Connection) -> None:
    """A contender's process."""
    try:
        pipe.send(figures(name, case))
    except (RuntimeError, ValueError, ImportError) as error:
        pipe.send(str(error).splitlines()[0])


def ask(figures: Callable[[str, Case], list[float]], name: str, case: Case) -> list[float] | str:
    """The figures of a contender, or why there are none."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=serve, args=(figures, name, case, theirs), daemon=True)
    process.start()
    theirs.close()
    try:
        found: list[float] | str = ours.recv() if ours.poll(PATIENCE) else f"took more than {PATIENCE:.0f} s"
    except EOFError:
        found = "its process ended"
    process.kill()
    process.join()
    return found


def train(case: Case) -> None:
    config, tokens = case.config, case.batch * case.config.n_ctx
    with torch.device("meta"):
        parameters = GPT2(config).parameter_count()
    operations = 6 * parameters + 12 * config.n_layer * config.n_embd * config.n_ctx
    print(f"\nTraining {case.size}, batch {case.batch} x {config.n_ctx}")
    print(f"{'':58}{'tokens/s':>10}{'from':>10}{'to':>10}{'of peak':>9}{'GB held':>9}{'gpt2flow is':>13}")
    found = {name: ask(training_figures, name, case) for name in TRAINING}
    ours = found["gpt2flow, its defaults"]
    for name, figures in found.items():
        if isinstance(figures, str):
            print(f"{name:58}{figures}")
            continue
        *rates, held = figures
        speeds = [tokens * rate for rate in (statistics.median(rates), min(rates), max(rates))]
        share = speeds[0] * operations / peak(case.device)
        times = statistics.median(ours[:-1]) / statistics.median(rates) if not isinstance(ours, str) else float("nan")
        line = "".join(f"{speed:10,.0f}" for speed in speeds)
        print(f"{name:58}{line}{share:9.1%}{held:9.1f}{times:11.2f} x", flush=True)


def peak(device: str) -> float:
    name = torch.cuda.get_device_name() if device.startswith("cuda") else ""
    return next((operations for card, operations in PEAKS.items() if card in name), float("nan"))


def write(case: Case) -> None:
    print(f"\nGeneration {case.size}, {NEW} tokens a row: tokens/s (from, to) and the first one's ms, behind rows x tokens of")
    print(f"{'':40}" + "".join(f"{f'{rows} x {length}':>36}" for rows, length in prompts_of(case)))
    for name in GENERATION:
        figures = ask(generation_figures, name, case)
        if isinstance(figures, str):
            print(f"{name:40}{figures}", flush=True)
            continue
        groups = [figures[start : start + 4] for start in range(0, len(figures), 4)]
        cells = [f"{middle:,.0f} ({least:,.0f}, {most:,.0f}) {1000 * first:.1f}" for middle, least, most, first in groups]
        print(f"{name:40}" + "".join(f"{cell:>36}" for cell in cells), flush=True)


def memory(case: Case) -> None:
    kinds: list[dict[str, object]] = [
        {"batch_size": case.batch, "compile": True},
        {"batch_size": case.batch, "recompute_blocks": case.config.n_layer // 2, "compile": False},
    ]
    print(f"\nMemory of {case.size}, tensors on the device at the fullest moment")
    print(f"{'foreseen GB':>12}{'measured GB':>13}{'ratio':>8}")
    for given in kinds:
        settings = TrainSettings.model_validate({"steps": 1000, **given})
        work = Workload(case.config, settings, torch.device(case.device))
        need, found = predict(work, 0, saves_beside=False), measure(work)
        assert found is not None
        line = f"{need.peak / 1e9:12.2f}{found.peak / 1e9:13.2f}{need.peak / found.peak:8.3f}"
        print(f"{line}  {given}", flush=True)


TABLES: dict[str, Callable[[Case], None]] = {"train": train, "generate": write, "memory": memory}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=TABLES, nargs="+", default=list(TABLES))
    parser.add_argument("--size", choices=SIZES, default="124M")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--device", default="cuda")
    given = parser.parse_args()
    if given.device.startswith("cuda") and not torch.cuda.is_available():
        raise SystemExit("There is no NVIDIA GPU that this PyTorch can use: --size tiny --device cpu rehearses without one.")
    name = torch.cuda.get_device_name() if given.device.startswith("cuda") else "the processor"
    print(f"{name}, PyTorch {torch.__version__}")
    started = time.perf_counter()
    for table in given.only:
        TABLES[table](Case(given.size, given.batch, given.device))
    print(f"\nAll of it took {time.perf_counter() - started:.0f} s.")


if __name__ == "__main__":
    main()
