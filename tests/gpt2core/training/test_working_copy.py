"""Training in bfloat16: float32 masters, close to float32, and as exact to resume.

Also tests `gpt2core.machine.dtypes`, `gpt2core.model.gradient_sums`, `gpt2core.model.linear`.
"""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from configs.schema import TrainSettings
from gpt2core.checkpoints.checkpoint import restore, save_checkpoint
from gpt2core.machine.dtypes import choose_dtype, cpu_multiplies_bfloat16
from gpt2core.machine.kernel_level import level
from gpt2core.model.attention import LONGEST_PLAIN, attend
from gpt2core.model.config import GPT2Config
from gpt2core.model.gpt2 import GPT2
from gpt2core.store.token_store import TokenStore
from gpt2core.text.tokenizer import Tokenizer
from gpt2core.training.batches import Batches
from gpt2core.training.callback import History
from gpt2core.training.trainer import Trainer
from gpt2core.training.working_copy import WorkingCopy

CPU = torch.device("cpu")


def make_trainer(store: TokenStore, dtype: str, dropout: float = 0.0, accumulate: int = 1) -> Trainer:
    settings = TrainSettings(
        steps=40, batch_size=4, accumulate=accumulate, learning_rate=1e-2, warmup_steps=3, seed=1, dtype=dtype
    )
    model = GPT2(GPT2Config(300, 16, 64, 2, 2, dropout)).initialise(1)
    return Trainer(model, Batches(store.stream("train"), 16, 4, 1), settings)


def losses(trainer: Trainer, until: int) -> list[float]:
    history = History()
    trainer.callbacks.append(history)
    trainer.run_until(until)
    return history.losses


def same_weights(one: GPT2, other: GPT2) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


@pytest.mark.kernels
def test_bfloat16_learns_as_float32_does(store: TokenStore) -> None:
    exact, rounded = losses(make_trainer(store, "float32"), 40), losses(make_trainer(store, "bfloat16"), 40)
    assert rounded != exact
    assert rounded[-1] == pytest.approx(exact[-1], rel=0.01)


def test_weights_and_moments_stay_float32(store: TokenStore) -> None:
    trainer = make_trainer(store, "bfloat16")
    trainer.run_until(2)
    assert {parameter.dtype for parameter in trainer.model.parameters()} == {torch.float32}
    states = [trainer.optimizer.state[parameter] for parameter in trainer.model.parameters()]
    assert {state[key].dtype for state in states for key in ("exp_avg", "exp_avg_sq")} == {torch.float32}


def test_the_copy_follows_weights_that_something_else_than_an_update_has_changed(store: TokenStore) -> None:
    trainer = make_trainer(store, "bfloat16")
    trainer.run_until(2)
    trainer.model.load_state_dict(GPT2(trainer.model.config).initialise(5).state_dict())
    for copied, own in zip(trainer.computing_model().parameters(), trainer.model.parameters(), strict=True):
        assert torch.equal(copied, own.bfloat16())


@pytest.mark.parametrize("accumulate", [1, 3])
def test_a_resumed_bfloat16_run_ends_with_the_same_bits(
    store: TokenStore, tokenizer: Tokenizer, tmp_path: Path, accumulate: int
) -> None:
    undisturbed, killed, resumed = (make_trainer(store, "bfloat16", 0.1, accumulate) for _ in range(3))
    undisturbed.run_until(12)
    killed.run_until(5)
    restore(resumed, save_checkpoint(tmp_path, killed, tokenizer, {}))
    resumed.run_until(12)
    assert same_weights(undisturbed.model, resumed.model)


def test_gradients_of_several_batches_are_added_in_float32() -> None:
    model = GPT2(GPT2Config(50, 8, 16, 2, 1)).initialise(0)
    working = WorkingCopy(model, torch.bfloat16)
    working.refresh()
    tokens = torch.arange(32).view(4, 8) % 50
    parts = []
    for row in range(4):
        working.begin_update()
        working.model.loss(tokens[row : row + 1], tokens[row : row + 1]).backward()
        parts.append({name: parameter.grad.clone() for name, parameter in model.named_parameters()})
    working.begin_update()
    for row in range(4):
        working.model.loss(tokens[row : row + 1], tokens[row : row + 1]).backward()
    for name, parameter in model.named_parameters():
        expected = parts[0][name] + parts[1][name] + parts[2][name] + parts[3][name]
        assert torch.equal(parameter.grad, expected), name
    assert all(parameter.grad is None for parameter in working.model.parameters())


def test_float32_needs_no_copy() -> None:
    model = GPT2(GPT2Config(50, 8, 16, 2, 1)).initialise(0)
    assert WorkingCopy(model, torch.float32).model is model


@pytest.mark.kernels
def test_auto_takes_bfloat16_where_the_cpu_multiplies_it() -> None:
    assert cpu_multiplies_bfloat16() == (level() == "bf16")
    assert (choose_dtype("auto", CPU, 768) is torch.bfloat16) == cpu_multiplies_bfloat16()
    assert choose_dtype("auto", CPU, 16) is torch.float32
    assert choose_dtype("bfloat16", CPU, 16) is torch.bfloat16


@pytest.mark.kernels
@pytest.mark.parametrize("lower", ["none", "portable"])
def test_auto_is_float32_at_a_lower_level_whatever_the_processor(lower: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GPT2FLOW_KERNELS", lower)
    assert choose_dtype("auto", CPU, 768) is torch.float32


def test_float16_is_refused_with_the_reason() -> None:
    with pytest.raises(ValueError, match=r"float16 overflows at 65504 .* use bfloat16 or float32"):
        TrainSettings(dtype="float16")


@pytest.mark.parametrize("length", [2, 17, LONGEST_PLAIN, LONGEST_PLAIN + 1])
def test_both_ways_of_attention_agree(length: int) -> None:
    generator = torch.Generator().manual_seed(0)
    parts = [torch.randn(2, 3, length, 8, generator=generator).bfloat16() for _ in range(3)]
    exact = attend(*(part.float() for part in parts), dropout=0.0)
    assert (attend(*parts, dropout=0.0).float() - exact).abs().max() < 0.03


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_recomputing_blocks_changes_memory_and_no_weight(store: TokenStore, dtype: str) -> None:
    keeping, recomputing = make_trainer(store, dtype, dropout=0.2), make_trainer(store, dtype, dropout=0.2)
    recomputing.computing_model().recomputed = 2
    saved = [bytes_kept(trainer.computing_model()) for trainer in (keeping, recomputing)]
    assert saved[1] < 0.3 * saved[0]
    for trainer in (keeping, recomputing):
        trainer.run_until(4)
    assert same_weights(keeping.model, recomputing.model)


def bytes_kept(model: GPT2) -> int:
    """What autograd keeps between forward and backward, the weights left out."""
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    model.train()
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        hidden = model.hidden(torch.zeros(8, 16, dtype=torch.int64))
    assert hidden.requires_grad
    return sum(kept.values())


@pytest.mark.kernels
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gradients_are_those_that_autograd_returns(dtype: torch.dtype) -> None:
    model = GPT2(GPT2Config(50, 40, 64, 2, 2)).initialise(0)
    tokens = torch.randint(50, (4, 40), generator=torch.Generator().manual_seed(0))
    expected = torch.autograd.grad(model.loss(tokens, tokens), list(model.parameters()))
    working = WorkingCopy(model, dtype)
    working.refresh()
    for _ in range(2):
        working.begin_update()
        for half in tokens.split(2):
            (working.model.loss(half, half) / 2).backward()
        for parameter, exact in zip(model.parameters(), expected, strict=True):
            assert (parameter.grad - exact).norm() <= (1e-5 if dtype is torch.float32 else 0.05) * exact.norm()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_gradient_is_handed_on_once_and_whole_while_backward_goes_on(store: TokenStore, dtype: str) -> None:
    trainer = make_trainer(store, dtype, accumulate=2)
    handed: list[tuple[Tensor, Tensor]] = []

    def note(parameter: Tensor) -> None:
        assert parameter.grad is not None
        handed.append((parameter, parameter.grad.clone()))

    trainer._working.call_with_gradients(note)
    trainer.gradient()
    of_second = handed[len(handed) // 2 :]
    assert {parameter for parameter, _ in of_second} == set(trainer.optimizer.parameters)
    assert len(of_second) == len(trainer.optimizer.parameters)
    assert all(torch.equal(gradient, parameter.grad) for parameter, gradient in of_second if parameter.grad is not None)
    (first, _), (last, _) = of_second[0], of_second[-1]
    assert first is trainer.model.ln_f.bias or first is trainer.model.ln_f.weight
    assert last is trainer.model.wte.weight or last is trainer.model.wpe.weight
