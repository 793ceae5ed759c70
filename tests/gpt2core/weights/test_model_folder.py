"""Recognising what a folder holds, from its text files alone."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from configs.errors import UserError
from gpt2core.model.config import GPT2Config
from gpt2core.weights.model_folder import HuggingFaceFolder, OpenAIFolder, read_config, recognise

TINY = GPT2Config(n_vocab=257, n_ctx=32, n_embd=48, n_head=4, n_layer=3)
CONFIG = {"model_type": "gpt2", "vocab_size": 257, "n_positions": 32, "n_embd": 48, "n_head": 4, "n_layer": 3}
SHARD_INDEX = "model.safetensors.index.json"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Hugging Face's layout; the weights are empty, for nothing here reads them."""
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    (tmp_path / "model.safetensors").touch()
    return tmp_path


@pytest.fixture
def openai(golden: Path, tmp_path: Path) -> Path:
    """The text files of OpenAI's layout without the weights."""
    for name in ("hparams.json", "checkpoint"):
        shutil.copy(golden / "openai-tiny" / "models" / "tiny" / name, tmp_path)
    return tmp_path


def test_openais_layout_is_recognised(openai: Path) -> None:
    assert recognise(openai) == OpenAIFolder(TINY, openai / "model.ckpt")


def test_hugging_faces_layout_is_recognised(folder: Path) -> None:
    assert recognise(folder) == HuggingFaceFolder(TINY, (folder / "model.safetensors",))
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    assert recognise(folder) == HuggingFaceFolder(TINY, (folder / "pytorch_model.bin",))


def test_safetensors_are_preferred_to_pickles(folder: Path) -> None:
    (folder / "pytorch_model.bin").touch()
    assert recognise(folder) == HuggingFaceFolder(TINY, (folder / "model.safetensors",))


def test_every_shard_is_found_once(folder: Path) -> None:
    names = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    (folder / "model.safetensors").unlink()
    for name in names:
        (folder / name).touch()
    (folder / SHARD_INDEX).write_text(json.dumps({"weight_map": {"a": names[1], "b": names[0], "c": names[1]}}))
    assert recognise(folder) == HuggingFaceFolder(TINY, tuple(folder / name for name in names))


@pytest.mark.parametrize(
    "line",
    [
        'model_checkpoint_path: "model-200"',
        'model_checkpoint_path: "/content/checkpoint/run1/model-200"',
        'model_checkpoint_path: "C:\\\\checkpoint\\\\run1\\\\model-200"',
        'model_checkpoint_path: "model-200"\nall_model_checkpoint_paths: "model-1000"',
    ],
)
def test_the_newest_checkpoint_is_looked_for_beside_the_text_file_that_names_it(openai: Path, line: str) -> None:
    (openai / "checkpoint").write_text(f"{line}\n")
    assert recognise(openai) == OpenAIFolder(TINY, openai / "model-200")


def test_sizes_are_read_without_pytorch(folder: Path) -> None:
    assert read_config(folder) == TINY
    imported = "from gpt2core.weights.model_folder import read_config"
    program = f"import sys; {imported}; read_config(sys.argv[1]); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program, folder], check=False).returncode == 0


@pytest.mark.parametrize(
    ("file", "content", "complaint"),
    [
        ("hparams.json", None, "is missing: copy hparams.json, encoder.json and vocab.bpe"),
        ("hparams.json", b'{"n_vocab": 257', "is not valid JSON"),
        ("hparams.json", b"[1]", "is not a JSON object"),
        ("hparams.json", b"\xff\xfe", "is not text"),
        ("hparams.json", b'{"n_vocab": 257, "n_ctx": "32"}', "gives no whole number for n_ctx"),
        (
            "hparams.json",
            b'{"n_vocab": 257, "n_ctx": 32, "n_embd": 48, "n_head": 5, "n_layer": 3}',
            "not divisible by n_head 5",
        ),
        ("hparams.json", b'{"n_vocab": 0, "n_ctx": 32, "n_embd": 48, "n_head": 4, "n_layer": 3}', "n_vocab is 0"),
        ("checkpoint", None, "is missing: write the line model_checkpoint_path"),
        ("checkpoint", b"nothing", "names no checkpoint"),
    ],
)
def test_what_openais_layout_lacks_is_named(openai: Path, file: str, content: bytes | None, complaint: str) -> None:
    (openai / file).unlink()
    if content is not None:
        (openai / file).write_bytes(content)
    with pytest.raises(UserError, match=rf"{openai / file}.*{complaint}"):
        recognise(openai)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("model_type", "gpt_neo"),
        ("activation_function", "gelu"),
        ("layer_norm_epsilon", 1e-6),
        ("scale_attn_weights", False),
        ("scale_attn_by_inverse_layer_idx", True),
        ("add_cross_attention", True),
        ("tie_word_embeddings", False),
        ("n_inner", 100),
        ("quantization_config", {"bits": 8}),
    ],
)
def test_another_architecture_is_refused_in_one_sentence(folder: Path, key: str, value: object) -> None:
    (folder / "config.json").write_text(json.dumps({**CONFIG, key: value}))
    with pytest.raises(UserError, match=rf"config.json describes another architecture \({key} is "):
        recognise(folder)


def test_what_transformers_writes_beside_the_architecture_is_accepted(folder: Path) -> None:
    beside = {"n_inner": 192, "n_ctx": 32, "summary_type": "cls_index", "reorder_and_upcast_attn": True, "attn_pdrop": 0.1}
    (folder / "config.json").write_text(json.dumps({**CONFIG, **beside}))
    assert read_config(folder) == TINY


@pytest.mark.parametrize(
    ("missing", "complaint"), [("model_type", "has no model_type"), ("n_layer", "gives no whole number for n_layer")]
)
def test_a_config_without_a_needed_key_is_refused(folder: Path, missing: str, complaint: str) -> None:
    (folder / "config.json").write_text(json.dumps({key: value for key, value in CONFIG.items() if key != missing}))
    with pytest.raises(UserError, match=complaint):
        recognise(folder)


@pytest.mark.parametrize("file", ["config.json", "model.safetensors"])
def test_a_missing_half_of_hugging_faces_layout_is_named(folder: Path, file: str) -> None:
    (folder / file).unlink()
    with pytest.raises(UserError, match=file):
        recognise(folder)


@pytest.mark.parametrize("name", ["model-00003-of-00002.safetensors", "../stranger.safetensors"])
def test_a_shard_that_is_missing_or_outside_the_folder_is_refused(folder: Path, name: str) -> None:
    (folder.parent / "stranger.safetensors").touch()
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    (folder / SHARD_INDEX).write_text(json.dumps({"weight_map": {"a": "model-00001-of-00002.safetensors", "b": name}}))
    with pytest.raises(UserError, match=f"names the shard {name}, which is not in the folder"):
        recognise(folder)


@pytest.mark.parametrize("content", ["{}", '{"weight_map": {}}', '{"weight_map": {"a": 1}}', '{"weight_map": []}'])
def test_a_shard_index_without_shards_is_refused(folder: Path, content: str) -> None:
    (folder / "model.safetensors").rename(folder / "model-00001-of-00001.safetensors")
    (folder / SHARD_INDEX).write_text(content)
    with pytest.raises(UserError, match="has no weight_map"):
        recognise(folder)


def test_a_folder_without_a_model_a_file_and_nothing_are_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    with pytest.raises(UserError, match=r"holds no model: expected config\.json with model\.safetensors"):
        recognise(tmp_path)
    with pytest.raises(UserError, match=r"notes\.txt is a file of no known kind: give the folder"):
        recognise(tmp_path / "notes.txt")
    with pytest.raises(UserError, match="absent does not exist"):
        recognise(tmp_path / "absent")
