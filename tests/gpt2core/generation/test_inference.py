"""The compiled code beside plain PyTorch, and the copies with small weights beside the model they were made from.

Also tests `gpt2core.kernels.inference`.
"""

import math
import time

import psutil
import pytest
import torch
from torch import Tensor

from configs.errors import UserError
from configs.schema import LoraSettings
from gpt2core.generation.inference import for_inference
from gpt2core.generation.sampling import generate
from gpt2core.kernels import inference
from gpt2core.model.config import GPT2Config
from gpt2core.model.gpt2 import GPT2
from gpt2core.model.key_value_cache import KeyValueCache
from gpt2core.model.lora import add_adapters

pytestmark = pytest.mark.kernels

CONFIG = GPT2Config(n_vocab=203, n_ctx=48, n_embd=128, n_head=4, n_layer=3)


@pytest.fixture(scope="module")
def model() -> GPT2:
    model = GPT2(CONFIG).initialise(0)
    for parameter in model.parameters():
        if parameter.ndim > 1:
            parameter.data.mul_(4)  # so that its logits differ by several units, as a trained model's do
    return model


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def prompts(rows: int, length: int) -> Tensor:
    return torch.randint(0, CONFIG.n_vocab, (rows, length), generator=torch.Generator().manual_seed(1))


def native_products(x: Tensor, weight: Tensor, scale: Tensor | None, bias: Tensor | None) -> Tensor:
    packed = inference.pack(weight, torch.empty(inference.packed_size(weight), dtype=torch.uint8))
    return inference.products(x, inference.projection(packed, scale, bias, *reversed(weight.shape)))


@pytest.mark.usefixtures("compiled")
@pytest.mark.parametrize("rows", [1, 2, 3, 4, 5, 6, 7, 8, 9, 17])
@pytest.mark.parametrize(("n_in", "n_out"), [(64, 1), (128, 32), (192, 103)])
def test_products_are_those_of_the_matrix_and_a_row_gets_the_same_bits_alone(rows: int, n_in: int, n_out: int) -> None:
    x, bias, scale = random(rows, n_in).bfloat16().float(), random(n_out, seed=1), random(n_out, seed=2)
    weight = random(n_out, n_in, seed=3).bfloat16()
    whole = (weight * 40).clamp(-127, 127).to(torch.int8)
    found, found_whole = native_products(x, weight, None, bias), native_products(x, whole, scale, None)
    expected, expected_whole = x @ weight.float().t() + bias, (x @ whole.float().t()) * scale
    assert torch.allclose(found, expected, atol=1e-4)
    assert torch.allclose(found_whole, expected_whole, atol=1e-2, rtol=1e-4)
    for row in range(rows):
        assert torch.equal(native_products(x[row : row + 1], weight, None, bias)[0], found[row])
        assert torch.equal(native_products(x[row : row + 1], whole, scale, None)[0], found_whole[row])


@pytest.fixture(params=["bfloat16", "int8"])
def small(request: pytest.FixtureRequest, model: GPT2) -> GPT2:
    """The model with small weights; int8 needs the compiled code."""
    if request.param == "int8":
        request.getfixturevalue("compiled")
    return for_inference(model, request.param)


@pytest.mark.usefixtures("compiled")
@pytest.mark.parametrize("head_size", [32, 64, 96, 256])
def test_a_step_over_cached_positions_is_pytorchs(head_size: int) -> None:
    config = GPT2Config(n_vocab=50, n_ctx=64, n_embd=2 * head_size, n_head=2, n_layer=2)
    exact = GPT2(config).initialise(0)
    for name, parameter in exact.named_parameters():
        parameter.data = (parameter.data * 3 if "weight" in name else random(len(parameter)) / 5).bfloat16().float()
    small, tokens = for_inference(exact, "bfloat16"), torch.randint(0, 50, (3, 41), generator=torch.Generator().manual_seed(1))
    cache = KeyValueCache(config, 3, 48, torch.device("cpu"), torch.bfloat16)
    lengths = [0, 7, 40]
    with torch.no_grad():
        for row, length in enumerate(lengths):
            if length:
                small.hidden(tokens[row : row + 1, :length], cache.row(row))
        last = torch.stack([tokens[row, length] for row, length in enumerate(lengths)])[:, None]
        found = small.hidden(last, cache)[:, 0]
        expected = torch.stack([exact.hidden(tokens[row : row + 1, : n + 1])[0, -1] for row, n in enumerate(lengths)])
    assert cache.lengths.tolist() == [1, 8, 41]
    assert (found - expected).abs().max() < 0.02 * expected.abs().max()


def test_small_weights_change_logits_a_little(model: GPT2, small: GPT2) -> None:
    tokens, most = prompts(2, 48), 0.04 if small.h[0].attn.c_attn.scale is not None else 0.02
    exact = model(tokens)
    cache = KeyValueCache(CONFIG, 2, 48, torch.device("cpu"), torch.bfloat16)
    with torch.no_grad():
        small.hidden(tokens[:, :20], cache)
        steps = torch.cat([small(tokens[:, i : i + 1], cache) for i in range(20, 48)], 1)
        assert (small(tokens) - exact).std() < most * exact.std()
        assert (steps - exact[:, 20:]).std() < most * exact.std()


def test_a_row_draws_the_same_tokens_bit_for_bit_alone_and_among_others(small: GPT2) -> None:
    tokens = prompts(11, 9)
    together = generate(small, tokens, 80, seed=3)
    for rows in (1, 2, 3, 8):
        assert torch.equal(generate(small, tokens[:rows], 80, seed=3), together[:rows])


def test_the_copy_leaves_the_model_alone_and_is_made_once(model: GPT2) -> None:
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    small = for_inference(model, "bfloat16")
    generate(small, prompts(2, 5), 10)
    assert all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items())
    assert for_inference(small) is small
    assert for_inference(model, "float32") is model


@pytest.mark.parametrize(("weights", "name"), [("bfloat16", "h.1.mlp.c_fc.weight"), ("int8", "h.1.mlp.c_fc.scale")])
def test_a_copy_of_a_broken_model_names_the_tensor(weights: str, name: str, request: pytest.FixtureRequest) -> None:
    if weights == "int8":
        request.getfixturevalue("compiled")
    broken = GPT2(CONFIG).initialise(0)
    broken.h[1].mlp.c_fc.weight.data[5, 7] = math.nan
    with pytest.raises(UserError, match=f"tensor {name} holds NaN or infinite values"):
        generate(for_inference(broken, weights), prompts(1, 5), 2)


def test_adapters_are_merged_into_the_copy() -> None:
    adapted = GPT2(CONFIG).initialise(0)
    add_adapters(adapted, LoraSettings(rank=4), 0)
    for name, parameter in adapted.named_parameters():
        if name.endswith("lora_B"):
            parameter.data.normal_(0, 0.3, generator=torch.Generator().manual_seed(1))
    tokens = prompts(2, 20)
    exact = adapted(tokens)
    assert (for_inference(adapted, "bfloat16")(tokens) - exact).std() < 0.02 * exact.std()


@pytest.mark.usefixtures("no_compiler")
def test_without_a_c_compiler_bfloat16_still_works_and_int8_is_refused(model: GPT2) -> None:
    assert inference.library() is None
    tokens = prompts(3, 9)
    found = generate(for_inference(model, "bfloat16"), tokens, 30, temperature=0)
    assert torch.equal(found[:2], generate(for_inference(model, "bfloat16"), tokens[:2], 30, temperature=0))
    with pytest.raises(UserError, match="weights 'int8' need a CPU, a C compiler"):
        for_inference(model, "int8")


@pytest.mark.parametrize("calls", [150, pytest.param(10_000, marks=pytest.mark.slow)])
def test_many_calls_neither_grow_nor_slow_down(model: GPT2, calls: int) -> None:
    small, tokens, process = for_inference(model), prompts(2, 9), psutil.Process()

    def quickest(count: int) -> float:
        """Processor time of the quickest ten calls among so many: other programs slow down the rest."""
        times = []
        for _ in range(count // 10):
            started = time.process_time()
            for _ in range(10):
                generate(small, tokens, 2, top_k=5)
            times.append(time.process_time() - started)
        return min(times)

    quickest(20)
    memory, first = process.memory_info().rss, quickest(calls // 3)
    quickest(calls // 3)
    assert quickest(calls // 3) < 1.5 * first
    assert process.memory_info().rss - memory < 4e6


@pytest.mark.usefixtures("compiled")
def test_int8_weights_are_within_half_a_step_of_the_real_ones(model: GPT2) -> None:
    small = for_inference(model, "int8")
    for block, own in zip(model.h, small.h, strict=True):
        weight, bias = block.mlp.c_fc.weight, block.mlp.c_fc.bias
        step = weight.abs().amax(0) / 127
        error = (own.mlp.c_fc(torch.eye(len(weight))) - bias - weight).abs()
        assert (error <= step / 2 * (1 + 1e-3)).all()
