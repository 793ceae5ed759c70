"""Text files and links of strangers."""

from pathlib import Path

import pytest

from configs.errors import UserError
from gpt2core.weights.untrusted_files import MOST_TEXT, read_object, read_text, require_own_files


@pytest.mark.parametrize("target", ["/etc/hostname", "../stranger", "a/../../stranger"])
def test_links_out_of_the_folder_are_refused(tmp_path: Path, target: str) -> None:
    (tmp_path / "link").symlink_to(target)
    with pytest.raises(UserError, match=rf"link is a link to {target}, outside its folder: put the file itself there"):
        require_own_files(tmp_path)


def test_links_inside_the_folder_are_not(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("file")
    require_own_files(tmp_path)


def test_a_file_too_large_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "large").open("wb") as file:
        file.truncate(MOST_TEXT + 1)
    with pytest.raises(UserError, match="has 268,435,457 bytes, which no file of its kind has"):
        read_text(tmp_path / "large")


@pytest.mark.parametrize("content", ["[" * 100_000, "[1]", "{", "\ufeff"])
def test_what_is_no_object_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "file").write_text(content)
    with pytest.raises(UserError, match=r"is not valid JSON|is not a JSON object"):
        read_object(tmp_path / "file")
