"""Ids are OpenAI's ids, text comes back as it was, and any layout of a vocabulary is the same vocabulary."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from configs.errors import UserError
from gpt2core.text.pieces import cut_text
from gpt2core.text.tokenizer import Tokenizer, load_tokenizer, train_tokenizer

PROSE = "It was the best of times, it was the worst of times. " * 20
UNICODE = st.text(st.characters(exclude_categories=["Cs"]))


@pytest.fixture(scope="module")
def gpt2(shared: Path) -> Tokenizer:
    return load_tokenizer(shared / "data" / "vocab")


@pytest.fixture(scope="module")
def small() -> Tokenizer:
    return train_tokenizer([PROSE], 275)


def test_every_golden_string_gets_openais_ids(gpt2: Tokenizer, golden: Path) -> None:
    lines = (golden / "openai_encoder_ids.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(lines) == 130
    for line in lines:
        case = json.loads(line)
        assert gpt2.encode(case["text"], special=False) == case["ids"]
        assert gpt2.decode(case["ids"]) == case["text"]


def test_end_of_text_is_one_id_by_default(gpt2: Tokenizer) -> None:
    assert gpt2.encode("one<|endoftext|>two") == [505, 50256, 11545]
    assert gpt2.encode("<|endoftext|>", special=False) == [27, 91, 437, 1659, 5239, 91, 29]
    assert (gpt2.end_of_text, gpt2.n_vocab) == (50256, 50257)


def test_naughty_strings_come_back_as_they_were(gpt2: Tokenizer, shared: Path) -> None:
    lines = (shared / "data" / "unicode" / "blns.txt").read_text(encoding="utf-8").split("\n")
    assert len(lines) > 500
    for line in lines:
        assert gpt2.decode(gpt2.encode(line)) == line
    assert gpt2.encode_batch(lines) == [gpt2.encode(line) for line in lines]


def test_tinyshakespeare_has_as_many_tokens_as_is_known(gpt2: Tokenizer, shared: Path) -> None:
    text = (shared / "data" / "text" / "tinyshakespeare.txt").read_text(encoding="utf-8")
    cut = int(len(text) * 0.9)
    assert len(gpt2.encode(text[:cut])) == 301_966
    assert len(gpt2.encode(text[cut:])) == 36_059


@pytest.mark.parametrize("name", ["hongloumeng.zh.txt", "wikitext-2.valid.txt"])
def test_pieces_have_the_ids_of_the_whole(gpt2: Tokenizer, shared: Path, name: str) -> None:
    text = (shared / "data" / "text" / name).read_text(encoding="utf-8")[:100_000]
    pieces = list(cut_text(text, 50))
    assert "".join(pieces) == text
    assert [i for ids in gpt2.encode_batch(pieces) for i in ids] == gpt2.encode(text)


@given(st.text(st.sampled_from("ab1é' \n\t\u3000'st,")), st.integers(1, 5))
def test_pieces_of_any_text_have_the_ids_of_the_whole(small: Tokenizer, text: str, size: int) -> None:
    pieces = list(cut_text(text, size))
    assert "".join(pieces) == text
    assert [i for ids in small.encode_batch(pieces) for i in ids] == small.encode(text)


def test_a_text_without_white_space_is_one_piece() -> None:
    assert list(cut_text("x" * 1000, 10)) == ["x" * 1000]


@given(UNICODE)
@example("<|endoftext|>")
@example("\ufeff\r\n\0")
def test_any_text_comes_back_as_it_was(small: Tokenizer, text: str) -> None:
    assert small.decode(small.encode(text)) == text
    assert small.decode(small.encode(text, special=False)) == text


def test_bytes_are_joined_before_they_are_decoded(small: Tokenizer) -> None:
    id_of = {raw: i for i, raw in small.token_bytes.items()}
    ids = [id_of[bytes([byte])] for byte in "é€😀".encode()]
    assert small.decode(ids) == "é€😀"
    assert small.decode(ids[:1]) == "\ufffd"
    assert small.decode([*ids[2:4], ids[0]]) == b"\xe2\x82\xc3".decode(errors="replace")


def test_unknown_ids_decode_to_the_replacement_character(small: Tokenizer) -> None:
    assert small.decode([small.n_vocab, *small.encode("a"), -1]) == "\ufffda\ufffd"


def test_half_a_surrogate_pair_is_replaced(small: Tokenizer) -> None:
    assert small.decode(small.encode("a\ud83d")) == "a\ufffd"


def test_training_gives_the_bytes_then_merges_then_end_of_text(small: Tokenizer) -> None:
    assert small.n_vocab == 275
    assert small.end_of_text == 274
    assert sorted(small.token_bytes[i] for i in range(256)) == [bytes([byte]) for byte in range(256)]
    assert all(len(small.token_bytes[i]) > 1 for i in range(256, 274))
    assert len(small.encode(PROSE)) < len(PROSE) / 2


def test_training_twice_gives_the_same_vocabulary(shared: Path) -> None:
    text = (shared / "data" / "text" / "tinyshakespeare.txt").read_text(encoding="utf-8")[:200_000]
    once = train_tokenizer([text], 1000)
    assert once.sha256 == train_tokenizer(iter([text]), 1000).sha256
    assert once.sha256 != train_tokenizer([text], 999).sha256


def test_a_vocabulary_of_257_is_the_byte_level_of_openais_toy(golden: Path) -> None:
    bytes_only = train_tokenizer([PROSE], 257)
    toy = load_tokenizer(golden / "openai-tiny" / "models" / "tiny")
    assert (toy.n_vocab, toy.end_of_text) == (257, 256)
    assert bytes_only.sha256 == toy.sha256
    assert bytes_only.encode("Aé") == toy.encode("Aé")


def test_a_text_too_small_for_the_vocabulary_gives_a_smaller_one() -> None:
    tiny = train_tokenizer(["abab"], 5000)
    assert (tiny.n_vocab, tiny.end_of_text) == (258, 257)


def test_a_vocabulary_smaller_than_the_bytes_is_refused() -> None:
    with pytest.raises(UserError, match=r"vocab_size is 256: .* need at least 257"):
        train_tokenizer([PROSE], 256)


def test_an_error_in_the_texts_stops_the_training() -> None:
    def texts():
        yield PROSE
        raise UserError("b.txt is not UTF-8")

    with pytest.raises(UserError, match=r"b\.txt is not UTF-8"):
        train_tokenizer(texts(), 300)


def test_a_saved_vocabulary_is_the_same_vocabulary(small: Tokenizer, tmp_path: Path) -> None:
    saved = small.save(tmp_path / "new" / "folder")
    assert [path.name for path in saved.parent.iterdir()] == ["tokenizer.json"]
    for path in (saved, saved.parent):
        again = load_tokenizer(path)
        assert again.sha256 == small.sha256
        assert again.encode(PROSE + "<|endoftext|>é") == small.encode(PROSE + "<|endoftext|>é")


def test_every_layout_of_gpt2_is_the_same_vocabulary(gpt2: Tokenizer, shared: Path, tmp_path: Path) -> None:
    shutil.copy(shared / "data" / "vocab" / "encoder.json", tmp_path / "vocab.json")
    shutil.copy(shared / "data" / "vocab" / "vocab.bpe", tmp_path / "merges.txt")
    saved = json.loads(gpt2.save(tmp_path / "saved").read_text(encoding="utf-8"))
    # As transformers writes it: merges as strings, offsets trimmed by a post-processor, end of text normalised.
    saved["model"]["merges"] = [" ".join(pair) for pair in saved["model"]["merges"]]
    saved["pre_tokenizer"]["trim_offsets"] = False
    saved["post_processor"] = {**saved["pre_tokenizer"], "trim_offsets": False}
    saved["added_tokens"][0]["normalized"] = True
    saved["truncation"] = {"direction": "Right", "max_length": 3, "strategy": "LongestFirst", "stride": 0}
    (tmp_path / "theirs.json").write_text(json.dumps(saved), encoding="utf-8")
    for path in ("merges.txt", "saved", "theirs.json"):
        same = load_tokenizer(tmp_path / path)
        assert same.sha256 == gpt2.sha256
        assert same.encode("Hello world, once more<|endoftext|>") == gpt2.encode("Hello world, once more<|endoftext|>")


def test_a_changed_merge_is_another_vocabulary(small: Tokenizer, tmp_path: Path) -> None:
    saved = json.loads(small.save(tmp_path).read_text(encoding="utf-8"))
    saved["model"]["merges"][-2:] = reversed(saved["model"]["merges"][-2:])
    (tmp_path / "tokenizer.json").write_text(json.dumps(saved), encoding="utf-8")
    assert load_tokenizer(tmp_path).sha256 != small.sha256


def test_a_missing_tokenizer_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nowhere does not exist: give a folder with tokenizer\.json"):
        load_tokenizer(tmp_path / "nowhere")


def test_a_folder_without_a_tokenizer_is_named(tmp_path: Path) -> None:
    (tmp_path / "encoder.json").write_text("{}")
    with pytest.raises(UserError, match=r"holds no tokenizer: put tokenizer\.json, or encoder\.json and vocab\.bpe"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize("content", ["", "{}", "not json", '{"model": {}}', "[1]"])
def test_a_damaged_tokenizer_json_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(UserError, match=r"tokenizer\.json is not a tokenizer\.json .*: take it from the model again"):
        load_tokenizer(tmp_path)


def test_a_vocabulary_that_would_lose_bytes_is_refused(small: Tokenizer, tmp_path: Path) -> None:
    saved = json.loads(small.save(tmp_path).read_text(encoding="utf-8"))
    saved["model"]["merges"], saved["model"]["vocab"] = [], {"a": 0, "<|endoftext|>": 1}
    saved["added_tokens"][0]["id"] = 1
    (tmp_path / "tokenizer.json").write_text(json.dumps(saved), encoding="utf-8")
    with pytest.raises(UserError, match=r"The vocabulary has no entry !: give a byte-level BPE"):
        load_tokenizer(tmp_path)


def test_a_vocabulary_without_end_of_text_is_refused(golden: Path, tmp_path: Path) -> None:
    entries = json.loads((golden / "openai-tiny" / "models" / "tiny" / "encoder.json").read_text(encoding="utf-8"))
    entries.pop("<|endoftext|>")
    (tmp_path / "encoder.json").write_text(json.dumps(entries), encoding="utf-8")
    (tmp_path / "vocab.bpe").write_text("#version: 0.2\n")
    with pytest.raises(UserError, match=r"no entry <\|endoftext\|>"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize("content", ["[]", "{", '{"a": "b"}', '{"a": -1}', '{"a": null}'])
def test_a_damaged_encoder_json_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "encoder.json").write_text(content)
    (tmp_path / "vocab.bpe").write_text("")
    with pytest.raises(UserError, match=r"encoder\.json is not a vocabulary"):
        load_tokenizer(tmp_path)


def test_merges_of_another_vocabulary_are_refused(shared: Path) -> None:
    with pytest.raises(UserError, match=r"encoder\.json and vocab\.bpe do not belong together .*out of vocabulary"):
        load_tokenizer(shared / "golden" / "keras-gpt-2-toy")


def test_a_damaged_line_of_merges_is_named(golden: Path, tmp_path: Path) -> None:
    shutil.copy(golden / "openai-tiny" / "models" / "tiny" / "encoder.json", tmp_path)
    (tmp_path / "vocab.bpe").write_text("#version: 0.2\na b c\n")
    with pytest.raises(UserError, match=r"vocab\.bpe, line 2 is not two tokens"):
        load_tokenizer(tmp_path)
