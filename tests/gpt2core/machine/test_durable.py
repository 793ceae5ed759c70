"""Folders and files are there as a whole or not at all."""

from pathlib import Path

import pytest

from configs.errors import UserError
from gpt2core.machine.durable import file_hash, named_write_errors, publish_folder, require_place, write_json


def test_a_published_folder_appears_with_all_its_files(tmp_path: Path) -> None:
    with publish_folder(tmp_path / "store") as temporary:
        (temporary / "a").write_text("1")
        assert not (tmp_path / "store").exists()
    assert [path.name for path in (tmp_path / "store").iterdir()] == ["a"]
    assert [path.name for path in tmp_path.iterdir()] == ["store"]


def test_an_error_leaves_nothing_behind(tmp_path: Path) -> None:
    def publish_half() -> None:
        with publish_folder(tmp_path / "store") as temporary:
            (temporary / "a").write_text("1")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        publish_half()
    assert list(tmp_path.iterdir()) == []


def test_a_stale_temporary_folder_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "store.tmp").mkdir()
    (tmp_path / "store.tmp" / "old").write_text("x")
    with publish_folder(tmp_path / "store") as temporary:
        (temporary / "new").write_text("y")
    assert [path.name for path in (tmp_path / "store").iterdir()] == ["new"]


def test_a_full_disk_is_one_sentence_and_leaves_nothing_behind(small_disk: Path) -> None:
    store = small_disk / "store"
    with pytest.raises(UserError, match=r"The disk is full at .*store: free some space"), publish_folder(store) as temporary:
        (temporary / "big").write_bytes(bytes(1_000_000))
    assert list(small_disk.iterdir()) == []


def test_a_full_disk_keeps_the_json_that_was_there(small_disk: Path) -> None:
    write_json(small_disk / "run.json", {"step": 1})
    with pytest.raises(UserError, match="The disk is full"):
        write_json(small_disk / "run.json", {"step": "2" * 1_000_000})
    assert (small_disk / "run.json").read_text() == '{\n "step": 1\n}\n'
    assert [path.name for path in small_disk.iterdir()] == ["run.json"]


def test_a_file_hash_sees_every_bit(tmp_path: Path) -> None:
    path = tmp_path / "file"
    content = bytearray(range(256))
    hashes = set()
    for position in (0, 100, 255):
        for bit in range(8):
            changed = bytearray(content)
            changed[position] ^= 1 << bit
            path.write_bytes(changed)
            hashes.add(file_hash(path))
    path.write_bytes(content)
    hashes.add(file_hash(path))
    assert len(hashes) == 25


def test_a_folder_where_a_file_stands_and_a_file_in_no_folder_are_refused_in_a_sentence(tmp_path: Path) -> None:
    file = tmp_path / "lens"
    file.touch()
    with (
        pytest.raises(UserError, match=r"lens cannot be written \(File exists\): choose another place"),
        named_write_errors(file),
    ):
        file.mkdir(exist_ok=True)
    for place, sentence in ((tmp_path / "nowhere" / "a.json", "nowhere does not exist"), (tmp_path, "is a folder")):
        with pytest.raises(UserError, match=sentence):
            require_place(place)
