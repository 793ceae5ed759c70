"""The vocabulary in a GGUF file's head."""

from pathlib import Path

import gguf
import pytest

from configs.errors import UserError
from gpt2core.text.gguf_vocabulary import GGUFVocabulary, add_gguf_vocabulary, read_gguf_vocabulary
from gpt2core.text.tokenizer import load_tokenizer

VOCABULARY = GGUFVocabulary({"a": 0, "b": 1, "ab": 2, "<end>": 3, "<me>": 4}, [("a", "b")], {"<end>": True, "<me>": False})


def written(file: Path, **changes: str) -> Path:
    writer = gguf.GGUFWriter(file, "gpt2")
    add_gguf_vocabulary(writer, VOCABULARY, end_of_text=3, n_vocab=7)
    for key, value in changes.items():
        writer.kv_data[0][f"tokenizer.ggml.{key}"].value = value
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    return file


def test_entries_merges_and_added_tokens_come_back_and_padding_does_not(tmp_path: Path) -> None:
    assert read_gguf_vocabulary(written(tmp_path / "model.gguf")) == VOCABULARY


@pytest.mark.parametrize("changes", [{"model": "llama"}, {"pre": "qwen2"}])
def test_another_kind_of_vocabulary_is_refused(tmp_path: Path, changes: dict[str, str]) -> None:
    with pytest.raises(UserError, match=r"has a vocabulary of the kind .*GPT-2 needs its own byte-level BPE"):
        read_gguf_vocabulary(written(tmp_path / "model.gguf", **changes))


def test_a_vocabulary_without_all_bytes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="The vocabulary has no entry"):
        load_tokenizer(written(tmp_path / "model.gguf"))
