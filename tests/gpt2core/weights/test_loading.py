"""Loading from every layout, refusing what is not a sound GPT-2, saving what other programs load.

Also tests `gpt2core.weights.tensor_files`.
"""

import json
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from configs.errors import UserError
from gpt2core.generation.sampling import generate
from gpt2core.model.config import GPT2Config
from gpt2core.model.gpt2 import GPT2
from gpt2core.weights.loading import load_model, save_model, save_tensors

TINY = GPT2Config(n_vocab=257, n_ctx=32, n_embd=48, n_head=4, n_layer=3)
SMALL = GPT2Config(n_vocab=40, n_ctx=8, n_embd=16, n_head=2, n_layer=2)
TOKENS = torch.randint(0, 40, (2, 8), generator=torch.Generator().manual_seed(0))


@pytest.fixture
def small() -> GPT2:
    return GPT2(SMALL).initialise(0)


@pytest.fixture
def folder(small: GPT2, tmp_path: Path) -> Path:
    """A saved model that may be changed."""
    save_model(small, tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def openai(golden: Path, tmp_path: Path) -> Path:
    """A copy of OpenAI's layout that may be changed."""
    return Path(shutil.copytree(golden / "openai-tiny" / "models" / "tiny", tmp_path / "openai"))


def same_weights(one: GPT2, other: GPT2) -> bool:
    pairs = zip(one.state_dict().items(), other.state_dict().items(), strict=True)
    return all(name == other_name and torch.equal(weight, other_weight) for (name, weight), (other_name, other_weight) in pairs)


def change_tensors(folder: Path, change: Callable[[dict[str, Tensor]], object]) -> None:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")


# --- OpenAI's layout


def test_openais_layout_gives_the_plain_weights(golden: Path) -> None:
    model = load_model(golden / "openai-tiny" / "models" / "tiny")
    expected = np.load(golden / "openai-tiny" / "tiny-weights.npz")
    assert model.config == TINY
    assert model.parameter_count() == sum(expected[name].size for name in expected.files)
    pairs = {
        "wte.weight": "model/wte",
        "wpe.weight": "model/wpe",
        "h.2.ln_1.weight": "model/h2/ln_1/g",
        "h.2.ln_2.bias": "model/h2/ln_2/b",
        "h.1.attn.c_attn.weight": "model/h1/attn/c_attn/w",
        "h.0.mlp.c_proj.bias": "model/h0/mlp/c_proj/b",
        "ln_f.weight": "model/ln_f/g",
    }
    for parameter, variable in pairs.items():
        found = model.get_parameter(parameter).detach().numpy()
        np.testing.assert_array_equal(found, expected[variable].reshape(found.shape))


def test_another_projects_checkpoint_in_openais_layout_loads_and_generates(shared: Path) -> None:
    model = load_model(shared / "golden" / "keras-gpt-2-toy")
    assert model.parameter_count() == 14_355
    ids = generate(model, torch.tensor([[1, 2, 3]]), max_new_tokens=30, top_k=5)
    assert ids.shape == (1, 33)
    assert 0 <= int(ids.min()) <= int(ids.max()) < 356


def test_the_newest_checkpoint_is_the_one_that_the_text_file_names(openai: Path) -> None:
    for file in openai.glob("model.ckpt.*"):
        file.rename(openai / file.name.replace("model.ckpt", "model-200"))
        (openai / file.name.replace("model.ckpt", "model-1000")).write_bytes(b"never read")
    (openai / "checkpoint").write_text(
        'model_checkpoint_path: "/content/checkpoint/run1/model-200"\nall_model_checkpoint_paths: "model-1000"\n'
    )
    assert load_model(openai).config == TINY


@pytest.mark.parametrize(
    ("sizes", "complaint"),
    [
        ({"n_layer": 2}, "has the tensor model/h2/attn/c_attn/b, which this GPT-2 does not have"),
        ({"n_layer": 4}, "lacks the tensor model/h3/attn/c_attn/b .12 in all"),
        ({"n_ctx": 33}, r"Tensor model/wpe of .* has the shape \[32, 48\], and the config asks for \[33, 48\]"),
    ],
)
def test_hparams_that_do_not_belong_to_the_weights_are_refused(openai: Path, sizes: dict[str, int], complaint: str) -> None:
    hparams = openai / "hparams.json"
    hparams.write_text(json.dumps({**json.loads(hparams.read_text()), **sizes}))
    with pytest.raises(UserError, match=complaint):
        load_model(openai)


# --- Hugging Face's layout


def test_hugging_faces_folder_gives_the_same_logits_bit_for_bit(shared: Path, golden: Path) -> None:
    tokens = torch.from_numpy(np.load(golden / "openai-tiny" / "tiny-golden.npz")["tokens"]).long()
    ours = load_model(golden / "openai-tiny" / "models" / "tiny")
    theirs = load_model(shared / "golden" / "hf-tiny" / "tiny")
    assert theirs.config == TINY
    assert torch.equal(ours(tokens), theirs(tokens))


def test_transformers_own_pickled_weights_load_too(shared: Path, golden: Path, tmp_path: Path) -> None:
    for name in ("config.json", "pytorch_model.bin"):
        shutil.copy(shared / "golden" / "hf-tiny" / "tiny" / name, tmp_path)
    assert same_weights(load_model(tmp_path), load_model(golden / "openai-tiny" / "models" / "tiny"))


def test_our_safetensors_are_byte_for_byte_those_of_transformers(shared: Path, golden: Path, tmp_path: Path) -> None:
    save_model(load_model(golden / "openai-tiny" / "models" / "tiny"), tmp_path)
    expected = shared / "golden" / "hf-tiny" / "tiny" / "model.safetensors"
    assert (tmp_path / "model.safetensors").read_bytes() == expected.read_bytes()


def test_names_without_prefix_a_tied_head_and_mask_buffers_are_accepted(small: GPT2, folder: Path) -> None:
    tensors = {name: weight.clone() for name, weight in small.state_dict().items()}
    tensors["lm_head.weight"] = tensors["wte.weight"].clone()
    for layer in range(SMALL.n_layer):
        tensors[f"h.{layer}.attn.bias"] = torch.ones(1, 1, 8, 8).tril()
        tensors[f"h.{layer}.attn.masked_bias"] = torch.tensor(-1e4)
    save_file(tensors, folder / "model.safetensors")
    assert same_weights(load_model(folder), small)


def test_a_head_of_its_own_is_refused(folder: Path) -> None:
    change_tensors(folder, lambda t: t.update({"lm_head.weight": t["transformer.wte.weight"] + 1}))
    with pytest.raises(UserError, match=r"has an output head lm_head.weight of its own"):
        load_model(folder)


def test_weights_in_several_files_load(small: GPT2, folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    names = sorted(tensors)
    parts = {"model-00001-of-00002.safetensors": names[:9], "model-00002-of-00002.safetensors": names[9:]}
    for file, part in parts.items():
        save_file({name: tensors[name] for name in part}, folder / file)
    places = {name: file for file, part in parts.items() for name in part}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    (folder / "model.safetensors").unlink()
    assert same_weights(load_model(folder), small)


# --- damage and strangers


def poke(name: str, value: float) -> Callable[[dict[str, Tensor]], object]:
    return lambda tensors: tensors[name].view(-1)[3:4].fill_(value)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda t: t.pop("transformer.h.1.ln_2.bias"), r"lacks the tensor h.1.ln_2.bias .1 in all"),
        (lambda t: t.update(stranger=torch.ones(1)), r"has the tensor stranger, which"),
        (lambda t: t.update({"transformer.wpe.weight": torch.ones(9, 16)}), r"wpe.weight of .* has the shape \[9, 16\]"),
        (lambda t: t.update({"transformer.ln_f.bias": torch.ones(16, dtype=torch.int8)}), r"ln_f.bias of .* type torch.int8"),
        (poke("transformer.h.0.mlp.c_fc.weight", float("nan")), r"h.0.mlp.c_fc.weight of .* holds NaN or infinite"),
        (poke("transformer.wte.weight", float("-inf")), r"wte.weight of .* holds NaN or infinite"),
    ],
)
def test_a_tensor_that_is_not_sound_is_named(
    folder: Path, change: Callable[[dict[str, Tensor]], object], complaint: str
) -> None:
    change_tensors(folder, change)
    with pytest.raises(UserError, match=complaint):
        load_model(folder)


@pytest.mark.parametrize("kept", [0, 5, 100, 2000, -1])
def test_truncated_safetensors_are_found(folder: Path, kept: int) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:kept])
    with pytest.raises(UserError, match=r"model.safetensors is damaged"):
        load_model(folder)


class TouchesAFile:
    """Unpickling it creates a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("write", [lambda o, f: torch.save(o, f), lambda o, f: f.write_bytes(pickle.dumps(o, protocol=2))])
def test_a_pickle_that_runs_code_is_refused_and_runs_nothing(folder: Path, write: Callable[[object, Path], object]) -> None:
    trap = folder / "trap"
    content = {**load_file(folder / "model.safetensors"), "extra": TouchesAFile(trap)}
    (folder / "model.safetensors").unlink()
    write(content, folder / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"pytorch_model.bin is damaged or holds more than tensors, and nothing in it was run"):
        load_model(folder)
    assert not trap.exists()


@pytest.mark.parametrize("zipped", [True, False])
def test_pickled_weights_of_any_age_load(small: GPT2, folder: Path, zipped: bool) -> None:
    (folder / "model.safetensors").unlink()
    torch.save(small.state_dict(), folder / "pytorch_model.bin", _use_new_zipfile_serialization=zipped)
    assert same_weights(load_model(folder), small)


@pytest.mark.parametrize("content", [[1, 2], {"model": {"wte.weight": 1}}])
def test_a_pickle_of_something_else_is_refused(folder: Path, content: object) -> None:
    (folder / "model.safetensors").unlink()
    torch.save(content, folder / "pytorch_model.bin")
    with pytest.raises(UserError, match="not a plain table of tensors"):
        load_model(folder)


@pytest.mark.parametrize("kept", [0, 10, 3000])
def test_a_truncated_pickle_is_refused(small: GPT2, folder: Path, kept: int) -> None:
    file = folder / "pytorch_model.bin"
    (folder / "model.safetensors").unlink()
    torch.save(small.state_dict(), file)
    file.write_bytes(file.read_bytes()[:kept])
    with pytest.raises(UserError, match=r"pytorch_model.bin is damaged"):
        load_model(folder)


# --- what is loaded


def test_a_loaded_model_does_not_change_with_its_file(small: GPT2, folder: Path) -> None:
    model = load_model(folder)
    file = folder / "model.safetensors"
    with file.open("r+b") as opened:
        opened.write(bytes(file.stat().st_size))
    assert same_weights(model, small)


def test_weights_can_be_trained_and_belong_to_the_parameters_alone(folder: Path) -> None:
    model = load_model(folder)
    assert all(p.requires_grad and p.is_contiguous() and not p.is_meta for p in model.parameters())
    assert len({p.data_ptr() for p in model.parameters()}) == len(list(model.parameters()))
    model.loss(TOKENS[:, :-1], TOKENS[:, 1:]).backward()
    assert all(p.grad is not None for p in model.parameters())


def test_dtype_and_dropout_are_as_asked_for(small: GPT2, folder: Path) -> None:
    model = load_model(folder, dtype=torch.bfloat16, dropout=0.25)
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    assert model.config.dropout == model.drop.p == model.h[0].attn.dropout == 0.25
    assert load_model(folder).config.dropout == 0.0
    assert same_weights(model, small.to(torch.bfloat16))


def test_a_shorter_context_gives_the_same_logits(small: GPT2, folder: Path) -> None:
    shorter = load_model(folder, n_ctx=5)
    assert shorter.config.n_ctx == 5
    assert shorter.wpe.weight.shape == (5, 16)
    assert torch.equal(shorter(TOKENS[:, :5]), small(TOKENS[:, :5]))
    with pytest.raises(UserError, match="6 tokens do not fit the context of 5"):
        shorter(TOKENS[:, :6])


def test_a_longer_context_than_the_base_model_has_is_refused(folder: Path) -> None:
    with pytest.raises(UserError, match="n_ctx 9 is longer than the 8 positions"):
        load_model(folder, n_ctx=9)


# --- saving


def test_saving_and_loading_keeps_every_bit(small: GPT2, folder: Path) -> None:
    loaded = load_model(folder)
    assert same_weights(loaded, small)
    assert torch.equal(loaded(TOKENS), small(TOKENS))


def test_a_bfloat16_model_is_saved_as_float32_without_loss(small: GPT2, tmp_path: Path) -> None:
    small.to(torch.bfloat16)
    save_model(small, tmp_path)
    assert {tensor.dtype for tensor in load_file(tmp_path / "model.safetensors").values()} == {torch.float32}
    assert same_weights(load_model(tmp_path, dtype=torch.bfloat16), small)


def test_equal_weights_give_equal_bytes(small: GPT2, folder: Path, tmp_path: Path) -> None:
    save_model(load_model(folder), tmp_path / "again")
    assert sorted(file.name for file in folder.iterdir()) == ["config.json", "model.safetensors"]
    for file in folder.iterdir():
        assert file.read_bytes() == (tmp_path / "again" / file.name).read_bytes()


def test_the_config_says_everything_that_transformers_would_otherwise_assume(small: GPT2, tmp_path: Path) -> None:
    save_model(small, tmp_path, end_of_text=39)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["architectures"] == ["GPT2LMHeadModel"]
    assert (config["vocab_size"], config["n_positions"]) == (40, 8)
    assert config["bos_token_id"] == config["eos_token_id"] == 39
    assert config["attn_pdrop"] == config["embd_pdrop"] == config["resid_pdrop"] == 0.0


def test_saved_files_have_the_users_usual_permissions(folder: Path) -> None:
    (folder / "usual").touch()
    usual = (folder / "usual").stat().st_mode
    assert {file.stat().st_mode for file in folder.iterdir()} == {usual}


def test_saving_over_a_model_replaces_it(small: GPT2, folder: Path) -> None:
    other = GPT2(SMALL).initialise(1)
    save_model(other, folder)
    assert same_weights(load_model(folder), other)


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(folder: Path) -> None:
    before = (folder / "model.safetensors").read_bytes()
    program = """
import resource, sys, torch
from pathlib import Path
from gpt2core.weights.loading import save_tensors
resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
try:
    save_tensors({"a": torch.ones(100_000)}, Path(sys.argv[1]))
except OSError:
    sys.exit(7)
"""
    done = subprocess.run([sys.executable, "-c", program, folder / "model.safetensors"], check=False)
    assert done.returncode == 7
    assert (folder / "model.safetensors").read_bytes() == before
    assert sorted(file.name for file in folder.iterdir()) == ["config.json", "model.safetensors"]


def test_tensors_that_are_not_contiguous_are_saved_as_they_read(tmp_path: Path) -> None:
    matrix = torch.arange(6.0).view(2, 3).t()
    save_tensors({"m": matrix}, tmp_path / "m.safetensors")
    assert torch.equal(load_file(tmp_path / "m.safetensors")["m"], matrix)


PEAK_OF_LOADING = """
import sys
import torch
from gpt2core.memory.trial_run import peak_bytes, resident_bytes
from gpt2core.weights.loading import load_model

cpu, small, large = torch.device("cpu"), *sys.argv[1:]
load_model(small)  # brings the code into memory
before = resident_bytes(cpu)
model = load_model(large)
print((peak_bytes(cpu) - before) / sum(parameter.nbytes for parameter in model.parameters()))
"""


def test_loading_takes_little_more_memory_than_the_weights(tmp_path: Path) -> None:
    """A mapped file counts as memory of the process as far as it was read: one that stayed mapped would make it twice.

    Linux counts up to some 30 MB wrongly where there are many processors, so the weights are 170 MB.
    """
    folders = {tmp_path / "small": GPT2Config(100, 64, 64, 2, 1), tmp_path / "large": GPT2Config(100, 64, 768, 12, 6)}
    for folder, config in folders.items():
        save_model(GPT2(config).initialise(0), folder)
    command = [sys.executable, "-c", PEAK_OF_LOADING, *map(str, folders)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 1.4
