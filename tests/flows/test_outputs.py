"""Every place that a person may name for what is written: one that cannot be written is one sentence, before any work."""

from pathlib import Path

import pytest
from command_line import gpt2flow

from configs.errors import UserError
from gpt2core.machine.durable import require_folder, require_place

WRITERS = {
    "export": ["export", "{}"],
    "sample": ["sample", "x", "--output", "{}"],
    "lens": ["lens", "x", "--output", "{}"],
    "evaluate": ["evaluate", "--output", "{}"],
}


@pytest.mark.parametrize("verb", WRITERS)
@pytest.mark.parametrize("place", ["/proc/x", "file/x"])
def test_a_place_that_cannot_be_written_is_one_sentence_and_exit_code_2(
    verb: str, place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.chdir(tmp_path)
    done = gpt2flow(capsys, *(argument.format(place) for argument in WRITERS[verb]))
    assert done.code == 2, done.err
    assert len(done.err.splitlines()) == 1
    assert "loading" not in done.err
    assert "cannot be written" in done.err or "does not exist" in done.err
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("verb", ["plan", "encode", "data", "run"])
def test_a_workspace_that_cannot_be_made_is_one_sentence(
    verb: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("GPT2FLOW_HOME", "/proc/x")
    done = gpt2flow(capsys, verb, "demo")
    assert done.code == 2, done.err
    assert "The workspace /proc/x cannot be written" in done.err
    assert "Traceback" not in done.err


def test_a_place_is_tried_out_and_left_as_it_was(tmp_path: Path) -> None:
    require_folder(tmp_path / "new" / "folder")
    require_place(tmp_path / "page.html")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "page.html").write_text("old")
    require_place(tmp_path / "page.html")
    assert (tmp_path / "page.html").read_text() == "old"
    with pytest.raises(UserError, match=r"page\.html cannot be written \(Not a directory\): choose another place"):
        require_folder(tmp_path / "page.html")
    for check in (require_folder, require_place):
        for place in (Path("/dev/null/x"), tmp_path / ("n" * 300) / "x"):
            with pytest.raises(UserError, match=r"cannot be written|does not exist"):
                check(place)
