"""Data sets as Hugging Face's own library stores and finds them, without a network."""

from __future__ import annotations

import json
from pathlib import Path

import datasets
import pytest

from configs.errors import UserError
from configs.schema import DataSettings
from gpt2core.text.documents import find_files, read_documents

TEXTS = ["one", "two\nlines", "красный 红", "", "four"]
READ = [text for text in TEXTS if text]


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    datasets.disable_progress_bars()


@pytest.fixture
def local(tmp_path: Path) -> Path:
    """A folder with two splits that `load_dataset` understands."""
    folder = tmp_path / "stories"
    folder.mkdir()
    for split, texts in (("train", TEXTS), ("test", ["held"])):
        lines = [json.dumps({"title": "x", "text": text}) for text in texts]
        (folder / f"{split}.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return folder


def read(source: str) -> list[str]:
    settings = DataSettings(source=source)
    return [document.text for document in read_documents(find_files(settings), settings)]


def test_a_data_set_on_disk_is_read_by_its_folder(tmp_path: Path) -> None:
    whole = datasets.Dataset.from_dict({"id": list(range(5)), "text": TEXTS})
    whole.save_to_disk(str(tmp_path / "one"), num_shards=2)
    datasets.DatasetDict({"train": whole, "test": whole.select([4])}).save_to_disk(str(tmp_path / "two"))
    assert read(str(tmp_path / "one")) == READ
    assert read(str(tmp_path / "two" / "train")) == READ
    assert sorted(read(str(tmp_path / "two"))) == sorted([*READ, "four"])
    with pytest.raises(UserError, match=r"saved with save_to_disk: give the folder itself, .*two/test"):
        read(f"dataset:{tmp_path}/two:test")


def test_a_data_set_is_read_by_name_and_split(local: Path) -> None:
    assert read(f"dataset:{local}") == read(f"dataset:{local}:train") == READ
    assert read(f"dataset:{local}:test") == ["held"]
    assert [file.source for file in find_files(DataSettings(source=f"dataset:{local}:test"))] == ["stories/stories-test.arrow"]


@pytest.mark.parametrize(
    ("split", "message"), [("train[:2]", "give a whole one"), ("train+test", "give a whole one"), ("dev", "cannot be read")]
)
def test_a_part_of_a_split_or_an_unknown_one_is_refused(local: Path, split: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        read(f"dataset:{local}:{split}")


def test_an_unknown_name_is_refused_in_a_sentence() -> None:
    with pytest.raises(UserError, match="dataset:nobody/nothing cannot be read"):
        read("dataset:nobody/nothing")
