"""What is trained on while something goes wrong."""

from pathlib import Path

import pytest

from tasks.workspace.folders import Workspace


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of 400 lines, in a workspace that is there."""
    file: Path = tmp_path_factory.mktemp("text") / "a.txt"
    file.write_text("".join(f"The {i}th line says that {i} times {i} is {i * i}.\n\n" for i in range(400)))
    Workspace.current().create()
    return file
