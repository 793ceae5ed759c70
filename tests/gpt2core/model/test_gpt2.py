"""The model against what OpenAI's own model answered for the same weights.

Also tests `gpt2core.model.gelu`.
"""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.lib.npyio import NpzFile
from torch import Tensor

from configs.errors import UserError
from gpt2core.model.config import RELEASED_SIZES, GPT2Config
from gpt2core.model.gpt2 import GPT2
from gpt2core.model.key_value_cache import KeyValueCache
from gpt2core.weights.loading import load_model

SMALL = GPT2Config(n_vocab=64, n_ctx=16, n_embd=32, n_head=4, n_layer=2)
OPENAI_LETTER = {"weight": "w", "bias": "b"}


@pytest.fixture(scope="module")
def answers(golden: Path) -> NpzFile:
    """What OpenAI's model answers for the tiny weights, and for which tokens."""
    return np.load(golden / "openai-tiny" / "tiny-golden.npz")


def ids(array: np.ndarray) -> Tensor:
    return torch.from_numpy(array).long()


def cache_for(model: GPT2, batch: int, capacity: int) -> KeyValueCache:
    return KeyValueCache(model.config, batch, capacity, torch.device("cpu"), torch.float32)


def farthest(found: Tensor, expected: np.ndarray) -> float:
    assert found.shape == expected.shape
    return float(np.abs(found.detach().numpy() - expected).max())


def present(cache: KeyValueCache, first: int) -> Tensor:
    """The cache as OpenAI's model returns it: [B, n_layer, 2, H, positions, D]."""
    return torch.stack([cache.keys, cache.values], 2)[:, :, :, :, first : cache.length].permute(1, 0, 2, 3, 4, 5)


def test_logits_are_openais(tiny: GPT2, answers: NpzFile) -> None:
    assert farthest(tiny(ids(answers["tokens"])), answers["logits"]) < 1e-5
    assert farthest(tiny(ids(answers["tokens"])), answers["logits_numpy_float64"]) < 1e-5


def test_logits_of_a_full_context_are_openais(tiny: GPT2, answers: NpzFile) -> None:
    assert farthest(tiny(ids(answers["full_window_tokens"])), answers["full_window_logits"]) < 1e-5


def test_logits_and_keys_and_values_behind_a_past_are_openais(tiny: GPT2, answers: NpzFile) -> None:
    tokens, past = ids(answers["tokens"]), int(answers["prefix_len"])
    cache = cache_for(tiny, *tokens.shape)
    with torch.no_grad():
        assert farthest(tiny(tokens[:, :past], cache), answers["logits_prefix"]) < 1e-5
        assert farthest(present(cache, 0), answers["present_prefix"]) < 1e-5
        assert farthest(tiny(tokens[:, past:], cache), answers["logits_with_past"]) < 1e-5
    assert farthest(present(cache, past), answers["present_with_past"]) < 1e-5
    assert farthest(present(cache, 0), answers["present"]) < 1e-5


def test_logits_token_by_token_are_openais(tiny: GPT2, answers: NpzFile) -> None:
    tokens, past = ids(answers["tokens"]), int(answers["prefix_len"])
    cache = cache_for(tiny, *tokens.shape)
    with torch.no_grad():
        tiny(tokens[:, :past], cache)
        steps = [tiny(tokens[:, i : i + 1], cache) for i in range(past, tokens.shape[1])]
    assert farthest(torch.cat(steps, 1), answers["logits_stepwise"]) < 1e-5


@pytest.mark.parametrize("cuts", [(1,), (5, 6), (1, 2, 3, 20), (31,)])
def test_cached_logits_equal_uncached_ones_wherever_the_cut_is(tiny: GPT2, answers: NpzFile, cuts: tuple[int, ...]) -> None:
    tokens = ids(answers["full_window_tokens"])
    cache = cache_for(tiny, *tokens.shape)
    with torch.no_grad():
        parts = [tiny(part, cache) for part in tokens.tensor_split(cuts, dim=1)]
        assert (torch.cat(parts, 1) - tiny(tokens)).abs().max() < 1e-5


def test_the_loss_and_every_gradient_are_openais(golden: Path, answers: NpzFile) -> None:
    model = load_model(golden / "openai-tiny" / "models" / "tiny")
    tokens = ids(answers["tokens"])
    loss = model.loss(tokens[:, :-1], tokens[:, 1:])
    loss.backward()
    assert abs(loss.item() - answers["loss"]) < 1e-6
    expected = np.load(golden / "openai-tiny" / "tiny-grads.npz")
    gradients = {openai_name(name): parameter.grad for name, parameter in model.named_parameters()}
    assert gradients.keys() == set(expected.files)
    for name, gradient in gradients.items():
        assert farthest(gradient, expected[name].reshape(gradient.shape)) < 1e-6, name


def openai_name(parameter: str) -> str:
    if parameter.startswith("w"):
        return f"model/{parameter.removesuffix('.weight')}"
    path = parameter.replace("h.", "h", 1).replace(".", "/").removesuffix("/weight").removesuffix("/bias")
    kind = parameter.rpartition(".")[2]
    return f"model/{path}/{'g' if 'ln_' in path and kind == 'weight' else OPENAI_LETTER[kind]}"


@pytest.mark.parametrize(
    ("size", "parameters"), [("124M", 124_439_808), ("355M", 354_823_168), ("774M", 774_030_080), ("1558M", 1_557_611_200)]
)
def test_released_sizes_have_the_published_number_of_parameters(size: str, parameters: int) -> None:
    with torch.device("meta"):
        assert GPT2(RELEASED_SIZES[size]).parameter_count() == parameters


def test_a_token_changes_nothing_before_it() -> None:
    model = GPT2(SMALL).initialise(0)
    tokens = torch.arange(16)[None]
    changed = tokens.clone()
    changed[0, 9] = 60
    with torch.no_grad():
        one, other = model(tokens), model(changed)
    assert torch.equal(one[:, :9], other[:, :9])
    assert not torch.equal(one[:, 9:], other[:, 9:])


def test_targets_of_minus_100_are_left_out_of_the_loss() -> None:
    model = GPT2(SMALL).initialise(0)
    tokens = torch.randint(0, 64, (2, 8), generator=torch.Generator().manual_seed(0))
    targets = tokens.roll(-1, 1)
    log_probabilities = model(tokens).log_softmax(-1).gather(-1, targets[..., None])[..., 0]
    targets[:, 5:] = -100
    assert model.loss(tokens, targets).item() == pytest.approx(-log_probabilities[:, :5].mean().item(), abs=1e-6)


def test_logits_are_float32_from_a_bfloat16_model() -> None:
    model = GPT2(SMALL).initialise(0)
    tokens = torch.arange(16)[None]
    exact, rounded = model(tokens), model.to(torch.bfloat16)(tokens)
    assert rounded.dtype == torch.float32
    assert (rounded - exact).abs().max() < 0.05


def test_dropout_acts_in_training_only() -> None:
    model = GPT2(GPT2Config(64, 16, 32, 4, 2, dropout=0.3)).initialise(0)
    tokens = torch.arange(16)[None]
    model.train()
    assert not torch.equal(model(tokens), model(tokens))
    model.eval()
    assert torch.equal(model(tokens), GPT2(SMALL).initialise(0)(tokens))


def test_dropout_reaches_embeddings_both_branches_and_attention_weights() -> None:
    model = GPT2(GPT2Config(64, 16, 32, 4, 1, dropout=0.5)).initialise(0).train()
    tokens, dropped = torch.arange(16)[None], []
    for drop in (model.drop, model.h[0].drop):
        drop.register_forward_hook(lambda module, inputs, out: dropped.append((out == 0).float().mean().item()))
    model(tokens)
    assert dropped == pytest.approx([0.5] * 3, abs=0.15)
    model.drop.eval()
    model.h[0].drop.eval()
    assert not torch.equal(model(tokens), model(tokens))  # what still varies are the attention weights


def test_text_longer_than_the_context_is_refused() -> None:
    model = GPT2(SMALL).initialise(0)
    with pytest.raises(UserError, match="17 tokens do not fit the context of 16"):
        model(torch.zeros(1, 17, dtype=torch.int64))


def test_the_cache_counts_towards_the_context() -> None:
    model = GPT2(SMALL).initialise(0)
    cache = cache_for(model, 1, 16)
    with torch.no_grad():
        model(torch.zeros(1, 16, dtype=torch.int64), cache)
        with pytest.raises(UserError, match="17 tokens do not fit"):
            model(torch.zeros(1, 1, dtype=torch.int64), cache)


def test_initial_weights_have_gpt2s_spread() -> None:
    config = GPT2Config(n_vocab=3000, n_ctx=256, n_embd=128, n_head=4, n_layer=8)
    for name, parameter in GPT2(config).initialise(0).named_parameters():
        if name.endswith("bias"):
            assert not parameter.any(), name
        elif ".ln_" in name or name == "ln_f.weight":
            assert (parameter == 1).all(), name
        else:
            deviation = 0.01 if name == "wpe.weight" else 0.02 / math.sqrt(16) if "c_proj" in name else 0.02
            assert abs(parameter.mean().item()) < deviation * 5 / math.sqrt(parameter.numel()), name
            assert parameter.std().item() == pytest.approx(deviation, rel=0.03), name


def test_the_same_seed_gives_the_same_weights_and_another_seed_others() -> None:
    one, same, other = (GPT2(SMALL).initialise(seed).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not torch.equal(one["wte.weight"], other["wte.weight"])


def test_a_width_that_the_heads_do_not_divide_is_refused() -> None:
    with pytest.raises(UserError, match="n_embd 30 is not divisible by n_head 4"):
        GPT2Config(64, 16, 30, 4, 2)
