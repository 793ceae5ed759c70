"""The whole comparison on one NVIDIA GPU, in about six minutes: training, generation, memory.

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
from dataclasses import asdict, dataclass, replace
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
SIZES = {**RELEASED_SIZES, "tiny": GPT2Config(500, 64, 64, 2, 2)}
ROUNDS, SECONDS, WARM_UP, PATIENCE = 3, 4.0, 12, 150.0
NEW = 128
"""Tokens written after a prompt."""


@dataclass(frozen=True)
class Case:
    """What is measured, and where."""

    size: str
    batch: int
    device: str
    rows: int = 0
    prompt: int = 0

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


def transformers_generation(case: Case, **options: object) -> Callable[[int], object]:
    tokens = prompts(case)
    model = transformers_model(case.config).to(case.device, torch.bfloat16).eval()
    given = {"do_sample": False, "pad_token_id": 0, "attention_mask": torch.ones_like(tokens), **options}
    return lambda new: model.generate(tokens, max_new_tokens=new, min_new_tokens=new, **given)  # type: ignore[operator]


def our_generation(case: Case, weights: Weights) -> Callable[[int], object]:
    model = for_inference(GPT2(case.config).initialise(0).to(case.device).eval(), weights)
    return lambda new: generate(model, prompts(case), new, temperature=0.0)


def prompts(case: Case) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(1, case.config.n_vocab, (case.rows, case.prompt), generator=generator).to(case.device)


GENERATION: dict[str, Callable[[Case], Callable[[int], object]]] = {
    "transformers bfloat16, its defaults": transformers_generation,
    "transformers bfloat16, static cache": lambda case: transformers_generation(case, cache_implementation="static"),
    "gpt2flow bfloat16": lambda case: our_generation(case, "bfloat16"),
    "gpt2flow float32": lambda case: our_generation(case, "float32"),
}


def generation_figures(name: str, case: Case) -> list[float]:
    """Tokens a second of each round, and last the seconds of the first token."""
    write, new = GENERATION[name](case), min(NEW, case.config.n_ctx - case.prompt)
    write(new)
    firsts = [seconds_of(lambda: write(1), case.device) for _ in range(ROUNDS)]
    wholes = [seconds_of(lambda: write(new), case.device) for _ in range(ROUNDS)]
    first = statistics.median(firsts)
    return [*(case.rows * (new - 1) / max(whole - first, 1e-9) for whole in wholes), first]


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
    for prompt in (256, 896) if case.config.n_ctx > 896 else (16,):
        for rows in (1, 8):
            asked = replace(case, prompt=prompt, rows=rows)
            print(f"\nGeneration {case.size}, {rows} x {prompt} tokens read, {NEW} written")
            print(f"{'':40}{'tokens/s':>10}{'from':>10}{'to':>10}{'first, ms':>11}")
            for name in GENERATION:
                figures = ask(generation_figures, name, asked)
                if isinstance(figures, str):
                    print(f"{name:40}{figures}", flush=True)
                    continue
                *rates, first = figures
                line = "".join(f"{rate:10,.0f}" for rate in (statistics.median(rates), min(rates), max(rates)))
                print(f"{name:40}{line}{1000 * first:11.1f}", flush=True)


def memory(case: Case) -> None:
    kinds: list[dict[str, object]] = [
        {"batch_size": case.batch, "compile": True},
        {"batch_size": max(1, case.batch // 4), "compile": False},
        {"batch_size": case.batch, "recompute_blocks": case.config.n_layer // 2, "compile": False},
    ]
    print(
        f"\nMemory of {case.size}, what PyTorch holds beside an empty model\n{'foreseen GB':>12}{'measured GB':>13}{'ratio':>8}"
    )
    for given in kinds:
        settings = TrainSettings.model_validate({"steps": 1000, **given})
        work = Workload(case.config, settings, torch.device(case.device))
        need, found = predict(work, 0, saves_beside=False), measure(work)
        assert found is not None
        line = f"{need.peak / 1e9:12.2f}{found.peak / 1e9:13.2f}{need.peak / found.peak:8.3f}"
        print(f"{line}  {given}, {astuple_of(case.config)}", flush=True)


def astuple_of(config: GPT2Config) -> str:
    return ", ".join(f"{name} {value}" for name, value in asdict(config).items() if name != "dropout")


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
