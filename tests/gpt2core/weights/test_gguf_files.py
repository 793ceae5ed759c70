"""GGUF files: read back bit for bit, understood by llama.cpp (whose answer is recorded), damage found."""

import json
import struct
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch

from configs.errors import UserError
from configs.generation import CompletionSettings
from gpt2core import load_model, load_tokenizer
from gpt2core.generation.completion import complete
from gpt2core.model.config import GPT2Config
from gpt2core.model.gpt2 import GPT2
from gpt2core.weights.gguf_files import gguf_spelling, read_gguf_config, write_gguf

SIZES = GPT2Config(n_vocab=40, n_ctx=8, n_embd=16, n_head=2, n_layer=2)


@pytest.fixture
def small() -> GPT2:
    return GPT2(SIZES).initialise(0)


def written(model: GPT2, file: Path, kind: np.dtype | None = None, **changes: object) -> Path:
    """A file written by the library alone, with other values where `changes` says so."""
    values = {"context_length": 8, "embedding_length": 16, "block_count": 2, "attention.head_count": 2, **changes}
    writer = gguf.GGUFWriter(file, values.pop("architecture", "gpt2"))
    for key, value in values.items():
        (writer.add_uint32 if isinstance(value, int) else writer.add_float32)(f"gpt2.{key}", value)
    for name, weight in model.state_dict().items():
        dense = weight.ndim == 2 and not name.startswith(("wte", "wpe"))
        array = (weight.t() if dense else weight).contiguous().numpy()
        writer.add_tensor(gguf_spelling(name), array if kind is None else array.astype(kind))
    for step in (writer.write_header_to_file, writer.write_kv_data_to_file, writer.write_tensors_to_file, writer.close):
        step()
    return file


def test_llama_cpp_and_we_answer_the_same(golden: Path) -> None:
    """Tokens, and log-probabilities up to llama.cpp's cache in float16; recorded from llama.cpp (build 11549)."""
    recorded = json.loads((golden / "gguf-tiny" / "llama_cpp.json").read_text())
    model, tokenizer = load_model(golden / "gguf-tiny"), load_tokenizer(golden / "gguf-tiny")
    settings = CompletionSettings(max_new_tokens=12, temperature=0.0, log_probabilities=True, weights="float32")
    (found,) = complete(model, tokenizer, [recorded["prompt"]], settings)
    assert found.tokens == recorded["tokens"]
    np.testing.assert_allclose(found.log_probabilities, recorded["log_probabilities"], atol=0.01)


def test_what_is_written_reads_back_bit_for_bit(small: GPT2, tmp_path: Path) -> None:
    write_gguf(small, tmp_path / "model.gguf", lambda head: None)
    again = load_model(tmp_path)
    assert again.config == SIZES
    assert all(torch.equal(one, other) for one, other in zip(small.parameters(), again.parameters(), strict=True))


def test_half_precision_is_read_as_it_is(small: GPT2, tmp_path: Path) -> None:
    model = load_model(written(small, tmp_path / "half.gguf", np.float16))
    for one, other in zip(small.parameters(), model.parameters(), strict=True):
        assert torch.equal(one.half().float(), other)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"architecture": "llama"}, "holds a model of the architecture 'llama'"),
        ({"feed_forward_length": 48}, r"describes another architecture \(feed_forward_length is 48\)"),
        ({"attention.layer_norm_epsilon": 1e-6}, r"describes another architecture \(attention.layer_norm_epsilon is "),
        ({"attention.head_count": 3}, "not divisible by n_head 3"),
        ({"block_count": 3}, "lacks the tensor blk.2."),
        ({"block_count": 2**31}, "in 2,147,483,648 layers"),
        ({"context_length": 9}, r"position_embd.weight of .* has the shape \[8, 16\], and the config asks for \[9, 16\]"),
    ],
)
def test_what_is_not_gpt2_is_refused_by_the_first_difference(
    small: GPT2, tmp_path: Path, changes: dict[str, object], complaint: str
) -> None:
    with pytest.raises(UserError, match=complaint):
        load_model(written(small, tmp_path / "model.gguf", **changes))


def test_quantised_weights_are_refused_by_name(small: GPT2, tmp_path: Path) -> None:
    file = written(small, tmp_path / "model.gguf")
    content = file.read_bytes()
    place = content.index(b"token_embd.weight") + len("token_embd.weight") + 4 + 2 * 8
    assert struct.unpack_from("<I", content, place) == (0,)  # float32
    file.write_bytes(content[:place] + struct.pack("<I", 8) + content[place + 4 :])  # Q8_0
    with pytest.raises(UserError, match=r"holds token_embd.weight quantised \(Q8_0\)|is damaged or no GGUF file"):
        load_model(file)


def test_a_truncated_file_is_found_at_every_length(small: GPT2, tmp_path: Path) -> None:
    good = written(small, tmp_path / "good.gguf").read_bytes()
    file = tmp_path / "model.gguf"
    for length in [*range(0, 900, 7), len(good) - 40]:
        file.write_bytes(good[:length])
        with pytest.raises(UserError, match=r"is damaged or no GGUF file|gives no whole number"):
            read_gguf_config(file)


@pytest.mark.parametrize("place", [8, 16])
def test_counts_beyond_the_file_end_at_once(small: GPT2, tmp_path: Path, place: int) -> None:
    file = written(small, tmp_path / "model.gguf")
    content = bytearray(file.read_bytes())
    content[place : place + 8] = struct.pack("<Q", 2**60)  # tensors, then keys
    file.write_bytes(bytes(content))
    with pytest.raises(UserError, match="is damaged or no GGUF file"):
        read_gguf_config(file)


def test_an_array_that_announces_more_than_the_file_ends_at_once(tmp_path: Path) -> None:
    head = b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + struct.pack("<Q", 1) + b"k" + struct.pack("<IIQ", 9, 0, 2**60)
    (tmp_path / "model.gguf").write_bytes(head)
    with pytest.raises(UserError, match="ends too early"):
        read_gguf_config(tmp_path / "model.gguf")
