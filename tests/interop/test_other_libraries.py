"""Files that travel through TensorFlow, transformers, peft and llama.cpp, each in an environment of its own.

The short forms, with files recorded by such runs (tests/golden/*-tiny), are in tests/gpt2core/weights.
"""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from configs.generation import CompletionSettings
from gpt2core import load_model, load_tokenizer
from gpt2core.generation.completion import complete
from gpt2core.weights.openai_files import openai_spelling
from tasks.models.convert import Source, convert

from .conftest import Program

pytestmark = pytest.mark.interop


@pytest.fixture
def start(golden: Path) -> Path:
    return golden / "gguf-tiny"


@pytest.fixture
def hf(start: Path, tmp_path: Path) -> Path:
    convert(Source(str(start)), tmp_path / "hf", "hf")
    return tmp_path / "hf"


def test_tensorflow_restores_what_is_written_bit_for_bit(program: Program, start: Path, tmp_path: Path) -> None:
    convert(Source(str(start)), tmp_path / "openai", "openai")
    program("tensorflow", "tensorflow_reads.py", tmp_path / "openai", tmp_path / "read.npz")
    found, model = np.load(tmp_path / "read.npz"), load_model(start)
    assert len(found.files) == len(list(model.parameters()))
    for name, weight in model.named_parameters():
        array = found[openai_spelling(name)]
        assert array.shape == ((1, *weight.shape) if weight.ndim == 2 and name[0] == "h" else tuple(weight.shape))
        np.testing.assert_array_equal(array.reshape(weight.shape), weight.detach().numpy())


def test_what_tensorflow_saves_is_read_bit_for_bit(program: Program, golden: Path, tmp_path: Path) -> None:
    released = golden / "openai-tiny"
    program("tensorflow", "tensorflow_writes.py", released / "tiny-weights.npz", tmp_path)
    for name in ("hparams.json", "encoder.json", "vocab.bpe"):
        shutil.copy(released / "models" / "tiny" / name, tmp_path)
    one, other = load_model(tmp_path), load_model(released / "models" / "tiny")
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))
    assert (tmp_path / "model-200.index").is_file()


def test_transformers_answers_the_same_and_its_shards_come_back(program: Program, hf: Path, tmp_path: Path) -> None:
    text = "To be, or not"
    program("transformers", "transformers_answers.py", hf, text, tmp_path / "answer.npz", tmp_path / "shards")
    answer, model = np.load(tmp_path / "answer.npz"), load_model(hf)
    assert answer["ids"].tolist() == [load_tokenizer(hf).encode(text)]
    with torch.no_grad():
        np.testing.assert_allclose(model(torch.from_numpy(answer["ids"])).numpy(), answer["logits"], atol=1e-4)
    assert len(list((tmp_path / "shards").glob("model-*.safetensors"))) > 1
    again = load_model(tmp_path / "shards")
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))
    assert load_tokenizer(tmp_path / "shards").encode(text) == load_tokenizer(hf).encode(text)


def test_adapters_that_peft_saves_alone_give_its_logits(program: Program, hf: Path, tmp_path: Path) -> None:
    program("transformers", "peft_trains.py", hf, tmp_path / "adapters", tmp_path / "answer.npz")
    answer = np.load(tmp_path / "answer.npz")
    with torch.no_grad():
        found = load_model(tmp_path / "adapters")(torch.from_numpy(answer["ids"]))
    np.testing.assert_allclose(found.numpy(), answer["logits"], atol=1e-4)
    convert(Source(str(tmp_path / "adapters")), tmp_path / "merged", "openai")


def test_llama_cpp_goes_on_as_we_do(program: Program, start: Path, tmp_path: Path) -> None:
    convert(Source(str(start)), tmp_path / "gguf", "gguf")
    prompt = "The king"
    answer = json.loads(program("llama_cpp", "llama_cpp_answers.py", tmp_path / "gguf" / "model.gguf", prompt).splitlines()[-1])
    settings = CompletionSettings(max_new_tokens=12, temperature=0.0, log_probabilities=True, weights="float32")
    (found,) = complete(load_model(start), load_tokenizer(start), [prompt], settings)
    assert found.tokens == answer["tokens"]
    np.testing.assert_allclose(found.log_probabilities, answer["log_probabilities"], atol=0.01)
