"""Conversion between all formats bit for bit, and what cannot be converted: one sentence, nothing written."""

import json
import shutil
from itertools import product
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from configs.errors import UserError
from gpt2core import load_model, load_tokenizer
from gpt2core.model.gpt2 import GPT2
from tasks.models.convert import WRITERS, Source, convert

TOKENS = torch.arange(24)[None]


@pytest.fixture(scope="module")
def start(golden: Path) -> Path:
    """A model whose vocabulary has merges, as every format can hold it."""
    return golden / "gguf-tiny"


@pytest.fixture(scope="module")
def converted(start: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same model in every format."""
    folder = tmp_path_factory.mktemp("converted")
    for form in WRITERS:
        convert(Source(str(start)), folder / form, form)
    return {form: folder / form for form in WRITERS}


@pytest.fixture
def released(golden: Path) -> Path:
    return golden / "openai-tiny" / "models" / "tiny"


@pytest.fixture
def hf(converted: dict[str, Path], tmp_path: Path) -> Path:
    """Hugging Face's layout, which may be changed."""
    return Path(shutil.copytree(converted["hf"], tmp_path / "hf"))


def same_bits(one: GPT2, other: GPT2) -> bool:
    pairs = zip(one.parameters(), other.parameters(), strict=True)
    return one.config == other.config and all(torch.equal(a.view(torch.int32), b.view(torch.int32)) for a, b in pairs)


@pytest.mark.parametrize(("first", "second"), list(product(WRITERS, WRITERS)))
def test_from_every_format_to_every_other_bit_for_bit(
    converted: dict[str, Path], start: Path, tmp_path: Path, first: str, second: str
) -> None:
    convert(Source(str(converted[first])), tmp_path / "out", second)
    assert same_bits(load_model(tmp_path / "out"), load_model(start))
    assert load_tokenizer(tmp_path / "out").sha256 == load_tokenizer(start).sha256


@pytest.mark.parametrize("form", ["hf", "openai", "nanogpt"])
def test_openais_golden_model_comes_back_bit_for_bit(released: Path, tmp_path: Path, form: str) -> None:
    convert(Source(str(released)), tmp_path / "out", form)
    assert same_bits(load_model(tmp_path / "out"), load_model(released))
    assert load_tokenizer(tmp_path / "out").encode("Größe 1") == load_tokenizer(released).encode("Größe 1")


def test_equal_models_give_equal_files(converted: dict[str, Path], start: Path, tmp_path: Path) -> None:
    for form in ("hf", "openai", "gguf"):
        convert(Source(str(start)), tmp_path / form, form)
        for file in converted[form].iterdir():
            assert (tmp_path / form / file.name).read_bytes() == file.read_bytes()


def test_a_context_is_cropped_and_never_made_longer(start: Path, tmp_path: Path) -> None:
    convert(Source(str(start), n_ctx=24), tmp_path / "short", "openai")
    assert torch.equal(load_model(tmp_path / "short")(TOKENS), load_model(start)(TOKENS))
    with pytest.raises(UserError, match="n_ctx 33 is longer than the 32 positions"):
        convert(Source(str(start), n_ctx=33), tmp_path / "long", "openai")
    assert not (tmp_path / "long").exists()


def test_an_older_checkpoint_of_a_folder_is_chosen_by_its_name(converted: dict[str, Path], tmp_path: Path) -> None:
    folder = shutil.copytree(converted["openai"], tmp_path / "run1")
    for file in folder.glob("model.ckpt.*"):
        shutil.copy(file, folder / file.name.replace("model.ckpt", "model-200"))
        file.write_bytes(b"never read")
    convert(Source(str(folder / "model-200")), tmp_path / "out", "hf")
    assert same_bits(load_model(tmp_path / "out"), load_model(converted["hf"]))


def test_pickled_shards_load(hf: Path, start: Path) -> None:
    tensors = load_file(hf / "model.safetensors")
    (hf / "model.safetensors").unlink()
    names = sorted(tensors)
    parts = {"pytorch_model-00001-of-00002.bin": names[:9], "pytorch_model-00002-of-00002.bin": names[9:]}
    for file, part in parts.items():
        torch.save({name: tensors[name] for name in part}, hf / file)
    places = {name: file for file, part in parts.items() for name in part}
    (hf / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": places}))
    assert same_bits(load_model(hf), load_model(start))


# --- adapters


@pytest.fixture
def adapters(golden: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(golden / "peft-tiny", tmp_path / "adapters"))


def name_base(adapters: Path, base: str | None) -> None:
    file = adapters / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "base_model_name_or_path": base}))


def test_adapters_alone_find_the_base_that_their_config_names(adapters: Path, released: Path, tmp_path: Path) -> None:
    name_base(adapters, str(released))
    convert(Source(str(adapters)), tmp_path / "merged", "hf")
    beside = shutil.copytree(adapters, tmp_path / "beside")
    convert(Source(str(released)), tmp_path / "base", "hf")
    shutil.copytree(tmp_path / "base", beside, dirs_exist_ok=True)
    assert same_bits(load_model(tmp_path / "merged"), load_model(beside))
    assert not same_bits(load_model(tmp_path / "merged"), load_model(released))


def test_the_base_of_adapters_can_be_given(adapters: Path, released: Path, tmp_path: Path) -> None:
    name_base(adapters, "openai-community/gpt2")
    with pytest.raises(UserError, match=r"adapters of the base model openai-community/gpt2, which is not here.*--base"):
        convert(Source(str(adapters)), tmp_path / "out", "hf")
    convert(Source(str(adapters), base=released), tmp_path / "out", "hf")
    assert load_model(tmp_path / "out").config == load_model(released).config


@pytest.mark.parametrize("base", ["adapters", "."])
def test_adapters_of_adapters_are_refused(adapters: Path, base: str) -> None:
    name_base(adapters, str(adapters / base) if base == "." else str(adapters))
    with pytest.raises(UserError, match="is itself adapters"):
        load_model(adapters)


# --- vocabularies


def enlarge(hf: Path, token: str) -> None:
    """A token more in the vocabulary and a row more in the model, as `resize_token_embeddings` makes it."""
    saved = json.loads((hf / "tokenizer.json").read_text())
    number = max(saved["model"]["vocab"].values()) + 1
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    saved["added_tokens"].append({"id": number, "content": token, "special": True, **flags})
    (hf / "tokenizer.json").write_text(json.dumps(saved))
    tensors = load_file(hf / "model.safetensors")
    name = "transformer.wte.weight"
    save_file({**tensors, name: torch.cat([tensors[name], torch.ones(1, 16)])}, hf / "model.safetensors")
    config = json.loads((hf / "config.json").read_text())
    (hf / "config.json").write_text(json.dumps({**config, "vocab_size": config["vocab_size"] + 1}))


@pytest.mark.parametrize("form", ["hf", "gguf", "nanogpt"])
def test_an_added_token_is_kept_where_the_format_can_hold_it(hf: Path, tmp_path: Path, form: str) -> None:
    enlarge(hf, "<|speaker|>")
    convert(Source(str(hf)), tmp_path / "out", form)
    assert same_bits(load_model(tmp_path / "out"), load_model(hf))
    ids = load_tokenizer(tmp_path / "out").encode("a<|speaker|>b")
    assert len(ids) == 3
    assert ids == load_tokenizer(hf).encode("a<|speaker|>b")


def test_an_added_token_is_refused_by_name_where_the_format_cannot_hold_it(hf: Path, tmp_path: Path) -> None:
    enlarge(hf, "<|speaker|>")
    with pytest.raises(UserError, match=r"added token '<\|speaker\|>' \(id 300\) has no place in encoder.json"):
        convert(Source(str(hf)), tmp_path / "out", "openai")
    assert not (tmp_path / "out").exists()


def test_a_token_without_a_row_in_the_model_is_refused_by_name(hf: Path, converted: dict[str, Path], tmp_path: Path) -> None:
    enlarge(hf, "[PAD]")
    for name in ("config.json", "model.safetensors"):
        shutil.copy(converted["hf"] / name, hf)
    with pytest.raises(UserError, match=r"entry '\[PAD\]' has the id 300, and the model's last is 299"):
        convert(Source(str(hf)), tmp_path / "out", "hf")


def test_rows_without_a_token_are_marked_unused_and_come_back(hf: Path, start: Path, tmp_path: Path) -> None:
    before = (hf / "tokenizer.json").read_bytes()
    enlarge(hf, "[PAD]")
    (hf / "tokenizer.json").write_bytes(before)
    convert(Source(str(hf)), tmp_path / "out", "gguf")
    assert load_model(tmp_path / "out").config.n_vocab == 301
    assert load_tokenizer(tmp_path / "out").sha256 == load_tokenizer(start).sha256


def test_a_missing_vocabulary_is_said_and_can_be_given(hf: Path, start: Path, tmp_path: Path) -> None:
    (hf / "tokenizer.json").unlink()
    with pytest.raises(UserError, match=r"holds no tokenizer: .*--vocabulary"):
        convert(Source(str(hf)), tmp_path / "out", "openai")
    convert(Source(str(hf), vocabulary=start), tmp_path / "out", "openai")
    assert load_tokenizer(tmp_path / "out").sha256 == load_tokenizer(start).sha256


def test_added_tokens_beside_vocab_json_are_kept(converted: dict[str, Path], tmp_path: Path) -> None:
    for theirs, ours in (("vocab.json", "encoder.json"), ("merges.txt", "vocab.bpe")):
        shutil.copy(converted["openai"] / ours, tmp_path / theirs)
    (tmp_path / "added_tokens.json").write_text('{"<b>": 301, "<a>": 300}')
    assert load_tokenizer(tmp_path).encode("<a><b>") == [300, 301]
    (tmp_path / "added_tokens.json").write_text('{"<b>": 305}')
    with pytest.raises(UserError, match=r"added_tokens.json gives the added token '<b>' the id 305"):
        load_tokenizer(tmp_path)


def test_a_vocabulary_without_merges_is_refused_for_llama_cpp(released: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has no merges"):
        convert(Source(str(released)), tmp_path / "out", "gguf")
    assert list(tmp_path.iterdir()) == []
