"""Adapters: exact at the start, equal to their formula, and the same to peft as to us.

Also tests `gpt2core.weights.adapter_files`.
"""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from configs.errors import UserError
from configs.schema import LoraSettings
from gpt2core.generation.inference import for_inference
from gpt2core.model.config import GPT2Config
from gpt2core.model.gpt2 import GPT2
from gpt2core.model.lora import AdaptedProjection, add_adapters
from gpt2core.weights.adapter_files import save_adapters
from gpt2core.weights.loading import load_model, save_model
from gpt2core.weights.model_folder import weight_files

SHAPE = GPT2Config(50, 8, 16, 2, 2)
TOKENS = torch.arange(8)[None]


def adapted(settings: LoraSettings, seed: int = 0) -> GPT2:
    """A model whose adapters are no longer zero."""
    model = GPT2(SHAPE).initialise(0).eval()
    names = add_adapters(model, settings, seed)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name in sorted(names):
            if name.endswith("lora_B"):
                model.get_parameter(name).normal_(0, 0.1, generator=generator)
    return model


def test_new_adapters_change_nothing() -> None:
    model, plain = GPT2(SHAPE).initialise(0), GPT2(SHAPE).initialise(0)
    add_adapters(model, LoraSettings(), 0)
    assert torch.equal(model(TOKENS), plain(TOKENS))


def test_an_adapted_projection_is_its_formula() -> None:
    layer = adapted(LoraSettings(rank=3, alpha=12)).h[0].mlp.c_fc
    assert isinstance(layer, AdaptedProjection)
    x = torch.randn(5, 16)
    expected = x @ (layer.weight + 4.0 * (layer.lora_B @ layer.lora_A).t()) + layer.bias
    torch.testing.assert_close(layer(x), expected, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize(
    ("targets", "found"),
    [
        (["c_attn"], {"attn.c_attn"}),
        (["c_proj"], {"attn.c_proj", "mlp.c_proj"}),
        (["mlp.c_proj", "c_fc"], {"mlp.c_proj", "mlp.c_fc"}),
    ],
)
def test_targets_are_ends_of_names(targets: list[str], found: set[str]) -> None:
    model = adapted(LoraSettings(targets=targets))
    names = {name for name, module in model.named_modules() if isinstance(module, AdaptedProjection)}
    assert names == {f"h.{layer}.{name}" for layer in range(2) for name in found}


def test_a_target_that_is_no_projection_is_refused() -> None:
    with pytest.raises(UserError, match=r"train.lora.targets 'wte' is no projection of the model: known are c_attn"):
        adapted(LoraSettings(targets=["c_attn", "wte"]))


def test_a_rank_that_no_projection_has_is_refused() -> None:
    adapted(LoraSettings(rank=16))
    with pytest.raises(UserError, match=r"train\.lora\.rank 17 is more than the model's projections have: give 16 at most"):
        adapted(LoraSettings(rank=17))


def test_another_seed_draws_other_adapters() -> None:
    one, same, other = (adapted(LoraSettings(), seed).h[0].attn.c_attn.lora_A for seed in (0, 0, 1))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A base model with adapters beside it, and the model that they make."""
    settings = LoraSettings(rank=3, alpha=5.0)
    save_model(GPT2(SHAPE).initialise(0), tmp_path)
    weights = {name: p.detach() for name, p in adapted(settings).named_parameters() if "lora_" in name}
    save_adapters(weights, settings, tmp_path)
    return tmp_path


def test_a_copy_for_inference_has_the_adapters_in_it() -> None:
    model = adapted(LoraSettings(rank=2))
    copy = for_inference(model, "bfloat16")
    assert (copy(TOKENS) - model(TOKENS)).abs().max() < 0.05 * model(TOKENS).abs().max()
    plain = GPT2(SHAPE).initialise(0)
    assert (copy(TOKENS) - model(TOKENS)).norm() < 0.2 * (plain(TOKENS) - model(TOKENS)).norm()


def test_a_folder_with_adapters_loads_merged(folder: Path) -> None:
    loaded = load_model(folder)
    assert not any(isinstance(module, AdaptedProjection) for module in loaded.modules())
    torch.testing.assert_close(loaded(TOKENS), adapted(LoraSettings(rank=3, alpha=5.0))(TOKENS), atol=1e-5, rtol=0)


def test_adapters_count_as_weights_of_the_model(folder: Path) -> None:
    assert [file.name for file in weight_files(folder)] == ["model.safetensors", "adapter_model.safetensors"]


def test_adapters_that_peft_has_saved_give_pefts_logits(golden: Path, tmp_path: Path) -> None:
    """tests/golden/peft-tiny: peft 0.21 on transformers 5.23, base openai-tiny, random adapters."""
    save_model(load_model(golden / "openai-tiny" / "models" / "tiny"), tmp_path)
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        shutil.copyfile(golden / "peft-tiny" / name, tmp_path / name)
    expected = np.load(golden / "peft-tiny" / "logits.npz")
    found = load_model(tmp_path)(torch.from_numpy(expected["tokens"]).long()).detach()
    torch.testing.assert_close(found, torch.from_numpy(expected["logits"]), atol=1e-5, rtol=0)
    base = load_model(golden / "openai-tiny" / "models" / "tiny")(torch.from_numpy(expected["tokens"]).long()).detach()
    assert (base - found).abs().max() > 0.01


def test_our_files_have_pefts_names_shapes_and_keys(golden: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    settings = LoraSettings(rank=4, alpha=8, dropout=0.1, targets=["c_attn", "c_fc", "mlp.c_proj"])
    model = load_model(golden / "openai-tiny" / "models" / "tiny")
    names = add_adapters(model, settings, 0)
    save_adapters({name: model.get_parameter(name).detach() for name in names}, settings, tmp_path)
    theirs, ours = (load_file(folder / "adapter_model.safetensors") for folder in (golden / "peft-tiny", tmp_path))
    assert {name: tensor.shape for name, tensor in ours.items()} == {name: tensor.shape for name, tensor in theirs.items()}
    expected, found = (json.loads((folder / "adapter_config.json").read_text()) for folder in (golden / "peft-tiny", tmp_path))
    assert {key: expected.get(key) for key in found} == found


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"use_dora": True}, "has use_dora True: only plain LoRA"),
        ({"peft_type": "IA3"}, "has peft_type 'IA3'"),
        ({"r": None}, "is not a config of low-rank adapters"),
    ],
)
def test_other_adapters_are_refused(folder: Path, change: dict, match: str) -> None:
    file = folder / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **change}))
    with pytest.raises(UserError, match=match):
        load_model(folder)


def test_adapters_without_a_base_or_of_another_model_are_named(folder: Path, tmp_path: Path) -> None:
    save_model(GPT2(GPT2Config(50, 8, 16, 2, 1)).initialise(0), folder)
    with pytest.raises(UserError, match=r"adapts h\.1\.\S+, which does not fit the model beside it"):
        load_model(folder)
    (folder / "model.safetensors").unlink()
    with pytest.raises(UserError, match="does not name their base model: give its folder"):
        load_model(folder)
