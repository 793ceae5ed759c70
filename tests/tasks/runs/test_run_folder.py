"""The small files of a run are as they were written, or they do not count."""

from pathlib import Path

from tasks.runs.run_folder import RunFolder

VALUE = {"id": "a-1", "key": "k", "started": "2026-01-02T03:04:05", "config": {"train": {"steps": 12, "rate": 0.1}}}


def test_no_flipped_bit_of_a_small_file_passes_for_what_was_written(tmp_path: Path) -> None:
    folder, path = RunFolder(tmp_path), tmp_path / "run.json"
    folder.write("run", VALUE)
    content = path.read_bytes()
    assert folder.read("run") == VALUE
    for position in range(len(content)):
        changed = bytearray(content)
        changed[position] ^= 1 << position % 8
        path.write_bytes(changed)
        assert folder.read("run") == {}, position
        assert folder.is_damaged("run")


def test_a_file_that_is_not_there_is_not_damaged(tmp_path: Path) -> None:
    assert RunFolder(tmp_path).read("run") == {}
    assert not RunFolder(tmp_path).is_damaged("run")


def test_damaged_samples_are_no_samples(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.samples.mkdir()
    file = folder.sample_files(3)[0]
    file.write_text('[{"step": 3, "prompt": "The", "completion": " end"}]')
    assert folder.samples_of(3)[0]["completion"] == " end"
    file.write_bytes(file.read_bytes().replace(b'"prompt"', b'"prompt\xff'))
    assert folder.samples_of(3) == folder.samples_of(4) == []
