"""The number of threads that make an update is found by trying, costs little when it is wrong, and changes no bit."""

import dataclasses
from itertools import pairwise

import pytest
import torch

from configs.schema import TrainSettings
from gpt2core.machine.kernel_level import level, reaches
from gpt2core.machine.python_threads import python_threads
from gpt2core.model.config import GPT2Config
from gpt2core.model.gpt2 import GPT2
from gpt2core.store.token_store import TokenStream
from gpt2core.training import thread_choice
from gpt2core.training.batches import Batches
from gpt2core.training.callback import History, StepMetrics
from gpt2core.training.thread_choice import LOOK_AGAIN, ThreadChoice, changes_no_bit, choose_from, computes_by_parts
from gpt2core.training.trainer import Trainer

CONFIG = GPT2Config(301, 64, 64, 2, 1)
"""In batches of 12 windows, large enough for every operation to be shared by threads."""


def numbers_chosen(choice: ThreadChoice, updates: int, durations: dict[int, float]) -> list[int]:
    """What is chosen for each of some updates, which take so long with each number."""
    chosen = []
    for _ in range(updates):
        chosen.append(choice.next_number())
        choice.note(chosen[-1], durations[chosen[-1]])
    return chosen


def test_both_are_tried_and_the_faster_one_stays() -> None:
    assert numbers_chosen(ThreadChoice((1, 2)), 40, {1: 2.0, 2: 1.0}) == [1, 1, *[2] * 11, 1, *[2] * 26]
    assert numbers_chosen(ThreadChoice((1, 2)), 20, {1: 1.0, 2: 8.0}) == [1, 1, 2, *[1] * 17]


def test_a_machine_that_becomes_busy_is_noticed_at_once_and_one_that_becomes_idle_some_time_later() -> None:
    choice, idle, busy = ThreadChoice((1, 4)), {1: 1.0, 4: 0.4}, {1: 1.5, 4: 10.0}
    numbers_chosen(choice, 10, idle)
    assert numbers_chosen(choice, 30, busy) == [4, *[1] * 29]
    assert numbers_chosen(choice, 3000, idle)[-100:].count(4) > 90


def test_a_number_that_was_slow_once_by_chance_is_tried_again_soon() -> None:
    choice = ThreadChoice((1, 2))
    assert numbers_chosen(choice, 3, {1: 1.0, 2: 20.0}) == [1, 1, 2]
    assert numbers_chosen(choice, 110, {1: 1.0, 2: 0.6})[-9:] == [2] * 9


def test_looking_again_at_a_bad_number_costs_a_fiftieth_of_the_time_after_a_few_sooner_looks() -> None:
    chosen = numbers_chosen(ThreadChoice((1, 2)), 5000, {1: 1.0, 2: 10.0})
    looks = [update for update, number in enumerate(chosen) if number == 2]
    between = [later - earlier - 1 for earlier, later in pairwise(looks)]  # updates of 1 s each
    assert between == [51, 201, 451, *[10 * LOOK_AGAIN + 1] * 8]


def run(
    settings: TrainSettings, config: GPT2Config, separator: int | None = None
) -> tuple[list[torch.Tensor], list[StepMetrics]]:
    """Weights and moments after a few updates, and what was reported of them."""
    text = torch.arange(20_000)
    stream = TokenStream([((text * text // 7 + text) % config.n_vocab).to(torch.int32).numpy()])
    model, history = GPT2(config).initialise(0), History()
    model.separator = separator
    batches = Batches(stream, config.n_ctx, settings.batch_size, settings.seed)
    trainer = Trainer(model, batches, settings, [history])
    assert changes_no_bit(trainer._working.model, settings)
    trainer.run_until(settings.steps)
    return [*(part.detach() for part in model.parameters()), *trainer.optimizer.tensors().values()], history.updates


CASES: dict[str, tuple[dict[str, object], GPT2Config, int | None]] = {
    "adamw": ({}, CONFIG, None),
    "sgd, noise, batches in parts, blocks recomputed": (
        {"optimizer": "sgd", "noise": 0.1, "accumulate": 2, "recompute_blocks": 1},
        dataclasses.replace(CONFIG, n_layer=2),
        None,
    ),
    "no clipping, a part of the model": ({"clip": 0, "trainable": ["h.0.*", "wte.weight"]}, CONFIG, None),
    "sizes that are multiples of little": ({}, GPT2Config(307, 70, 48, 3, 2), None),
    "documents kept apart": ({}, CONFIG, 5),
    "wide": ({}, GPT2Config(2000, 128, 256, 4, 2), None),
}


@pytest.mark.kernels
@pytest.mark.usefixtures("compiled")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", ["adamw", *(pytest.param(name, marks=pytest.mark.slow) for name in CASES if name != "adamw")])
def test_a_run_whose_threads_change_all_the_time_ends_with_the_weights_of_one_thread(
    name: str, dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not reaches(level(), "bf16" if dtype == "bfloat16" else "avx2"):
        pytest.skip(f"kernels of level '{level()}' do not make all sums in {dtype}")
    options, config, separator = CASES[name]
    if separator is not None and dtype == "bfloat16":
        pytest.skip("PyTorch computes the attention of documents in bfloat16")
    settings = TrainSettings.model_validate(
        {"steps": 2, "batch_size": 12, "learning_rate": 3e-3, "warmup_steps": 0, "device": "cpu", "dtype": dtype} | options
    )
    numbers = iter([3, 2])
    monkeypatch.setattr(thread_choice, "choose_from", lambda *_: ThreadChoice(()))
    weights, updates = run(settings, config, separator)
    monkeypatch.setattr("gpt2core.training.trainer.choose_from", lambda *_: ThreadChoice((2, 3)))
    monkeypatch.setattr(ThreadChoice, "next_number", lambda *_: next(numbers))
    others, reported = run(settings, config, separator)
    assert list(numbers) == []
    assert all(map(torch.equal, weights, others)) and updates == reported


def test_the_number_is_left_alone_where_it_may_change_bits_or_somebody_has_set_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(thread_choice, "THREADS", 8)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    settings, model = TrainSettings(steps=1, dtype="float32"), GPT2(CONFIG)
    free = changes_no_bit(model, settings)
    assert free == reaches(level(), "avx2") or not free
    assert choose_from(model, settings)._numbers == ((1, 8) if free else ())
    assert not changes_no_bit(GPT2(dataclasses.replace(CONFIG, dropout=0.1)), settings)
    assert not changes_no_bit(model, settings.model_copy(update={"optimizer": "muon"}))
    assert not changes_no_bit(model, settings.model_copy(update={"trainable": ["lora"]}))
    assert choose_from(GPT2(dataclasses.replace(CONFIG, n_embd=256)), settings)._numbers == ()
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    assert choose_from(model, settings)._numbers == ()


ALONE: dict[str, tuple[dict[str, object], GPT2Config, int | None]] = {
    name: case for name, case in CASES.items() if name != "wide"
} | {"muon": ({"optimizer": "muon"}, CONFIG, None), "adapters": ({"trainable": ["lora"]}, CONFIG, None)}


@pytest.mark.parametrize("name", ["adamw", *(pytest.param(name, marks=pytest.mark.slow) for name in ALONE if name != "adamw")])
def test_where_pytorch_computes_alone_batches_are_cut_into_parts_and_threads_change_no_bit(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GPT2FLOW_KERNELS", "none")
    options, config, separator = ALONE[name]
    settings = TrainSettings.model_validate(
        {"steps": 4, "batch_size": 12, "learning_rate": 3e-3, "warmup_steps": 0, "device": "cpu", "dtype": "float32"} | options
    )
    found = []
    for number in [(1, 2, 3, 4), (1,)]:
        numbers = iter(number * 4)
        monkeypatch.setattr("gpt2core.training.trainer.choose_from", lambda *_: ThreadChoice((1, 2, 3, 4), python_threads))
        monkeypatch.setattr(ThreadChoice, "next_number", lambda _, numbers=numbers: next(numbers))
        found.append(run(settings, config, separator))
    (weights, updates), (others, reported) = found
    assert all(map(torch.equal, weights, others)) and updates == reported


def test_parts_are_for_small_models_in_float32_that_pytorch_computes_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(thread_choice, "THREADS", 8)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    settings, model = TrainSettings(steps=1), GPT2(CONFIG)
    monkeypatch.setenv("GPT2FLOW_KERNELS", "none")
    assert computes_by_parts(model, settings)
    for config in (dataclasses.replace(CONFIG, dropout=0.1), dataclasses.replace(CONFIG, n_embd=256)):
        assert not computes_by_parts(GPT2(config), settings)
    assert not computes_by_parts(model, settings.model_copy(update={"compile": True}))
    assert not computes_by_parts(GPT2(CONFIG).bfloat16(), settings)
    model.by_parts = True
    assert choose_from(model, settings)._numbers == (1, 8)
    assert choose_from(model, settings, processes=2)._numbers == (1,)
    monkeypatch.setenv("OMP_NUM_THREADS", "8")
    assert choose_from(model, settings)._numbers == (8,)


@pytest.mark.usefixtures("compiled")
def test_with_kernels_nothing_is_cut() -> None:
    assert not computes_by_parts(GPT2(CONFIG), TrainSettings(steps=1))


def test_without_a_compiler_the_number_is_left_alone_where_batches_are_not_cut(no_compiler: None) -> None:
    settings, model = TrainSettings(steps=1, dtype="float32"), GPT2(CONFIG)
    assert not changes_no_bit(model, settings)
    assert computes_by_parts(model, settings)
